"""omniq bench decode: whole models in processes of their own; and how exact the activations of a model are."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from doubles import FakeClock, Rough
from tiny import save_tiny

from omniq import evaluation, runtime
from omniq.bench import decode, engines
from omniq.bench.decode import Load, Speed, Subject, ratios, speed_of, timed
from omniq.cli import app
from omniq.errors import ModelError, UsageError
from omniq.kernels.dispatch import KERNELS
from omniq.nn import QuantLinear


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Puts the number of threads back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in `model`, and quantised in `packed`."""
    folder = tmp_path_factory.mktemp("bench")
    save_tiny("llama", folder / "model")
    words = ["quantize", str(folder / "model"), "-o", str(folder / "packed"), "-p", "rtn", "-g", "32", "--quiet"]
    with pytest.raises(SystemExit) as leaving:
        app.main(words)
    assert not leaving.value.code
    return folder


class FakeEngine:
    """Reads a token in 1 s and writes one in 10 s."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def prefill(self, ids: Sequence[int]) -> None:
        self.clock.now += len(ids)

    def step(self) -> None:
        self.clock.now += 10


def test_reading_and_writing_are_timed_apart() -> None:
    clock = FakeClock()
    assert timed(FakeEngine(clock), range(7), 3, clock) == (7.0, 30.0)


def test_ratios_are_to_the_original_in_each_type_and_missing_where_it_did_not_run() -> None:
    rows = [
        Speed("omniq", "exact", prefill=300.0, decode=40.0),
        Speed("transformers", "bfloat16", prefill=200.0, decode=10.0),
        Speed("transformers", "float32", reason="its process ended"),
        Speed("llama.cpp", "GGUF", reason="is not a file"),
    ]
    ours, bfloat16, float32, llama = ratios(rows)
    assert (ours["prefill_vs_bfloat16"], ours["decode_vs_bfloat16"]) == (1.5, 4.0)
    assert (ours["prefill_vs_float32"], bfloat16["decode_vs_bfloat16"]) == (None, 1.0)
    assert set(float32.values()) == set(llama.values()) == {None}


def test_the_engine_writes_the_tokens_that_generate_does(folder: Path) -> None:
    model = runtime.load(folder / "packed")
    engine, ids = engines.TorchEngine(model, torch.device("cpu")), [5, 17, 40, 200]
    assert engine.vocabulary == model.config.vocab_size
    for _ in range(2):  # the second prompt starts from an empty cache
        engine.prefill(ids)
        found = [engine.token.item()]
        for _ in range(5):
            engine.step()
            found.append(engine.token.item())
    done = model.generate(
        input_ids=torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert found == done[0, len(ids) :].tolist()


@pytest.mark.parametrize(("numbers", "bits"), decode.WAYS)
def test_a_packed_model_names_its_kernels_and_its_memory(folder: Path, numbers: str, bits: int) -> None:
    speed = speed_of(Subject(decode.OMNIQ, folder / "packed", numbers, bits), Load(prompt=8, new=3, runs=2))
    assert min(speed.prefill, speed.decode, speed.slowest_decode) > 0
    assert speed.decode >= speed.slowest_decode
    kernels, _, reason = speed.kernels.partition(", layer by layer: ")
    assert set(kernels.split(", ")) <= set(KERNELS)
    assert reason, "its heads are too small for whole blocks, which is said"
    assert min(speed.libraries, speed.load_peak, speed.run_peak) > 0


def test_a_model_runs_in_a_process_of_its_own(folder: Path) -> None:
    threads = torch.get_num_threads()
    load = Load(prompt=8, new=3, runs=1, threads=threads + 1)
    speed = decode.in_own_process(Subject(decode.TRANSFORMERS, folder / "model", "bfloat16"), load)
    assert speed.kernels == "torch"
    assert torch.get_num_threads() == threads


def test_an_error_comes_out_of_that_process_as_it_is() -> None:
    error = pickle.loads(pickle.dumps(ModelError("gone, and the fix")))
    assert (type(error), str(error), error.exit_code) == (ModelError, "gone, and the fix", ModelError.exit_code)


def test_a_model_whose_process_dies_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    class Dying:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, *_: object) -> None:
            raise BrokenProcessPool

    monkeypatch.setattr(decode, "ProcessPoolExecutor", Dying)
    speed = decode.in_own_process(Subject(decode.OMNIQ, Path("x"), "exact"), Load())
    assert (speed.decode, speed.reason) == (None, decode.DIED)


def test_llama_cpp_is_a_row_with_a_reason_where_it_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(decode.LLAMA, tmp_path / "model.gguf", "GGUF")
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    assert "is not a file" in next(decode.speeds([subject], Load())).reason
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert "pip install llama-cpp-python" in next(decode.speeds([subject], Load())).reason


def test_bench_decode_compares_a_packed_model_with_its_original(
    folder: Path, omniq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "in_own_process", speed_of)
    words = ("--prompt-tokens", "8", "--new-tokens", "2", "--runs", "1", "--against", str(folder / "model"))
    file = tmp_path / "rows.csv"
    code, out, err = omniq("bench", "decode", str(folder / "packed"), *words, "--csv", str(file))
    assert code == 0, err
    with file.open(newline="") as stored:
        rows = list(csv.DictReader(stored))
    assert list(rows[0])[: len(decode.COLUMNS)] == list(decode.COLUMNS)
    assert [(row["engine"], row["numbers"], row["embed_bits"]) for row in rows] == [
        *(("omniq", numbers, str(bits)) for numbers, bits in decode.WAYS),
        ("transformers", "bfloat16", ""),
        ("transformers", "float32", ""),
    ]
    for row in rows:
        assert float(row["decode_vs_float32"]) == pytest.approx(float(row["decode"]) / float(rows[-1]["decode"]))
        assert (row["model"], row["prompt"], row["new"]) == ("packed", "8", "2")
    assert "8 tokens read, 2 written" in out
    rows = json.loads(omniq("bench", "decode", str(folder / "packed"), *words[:6], "--json")[1])["rows"]
    assert [(row["numbers"], row["embed_bits"]) for row in rows] == list(decode.WAYS)


# How exact activations are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["exact", "int8"])
def test_approximate_kernels_run_only_where_int8_activations_are_asked_for(
    folder: Path, activations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KERNELS._entries, "rough", Rough(0))
    model = runtime.load(folder / "packed", activations=activations)
    found = {module.kernel for module in model.modules() if isinstance(module, QuantLinear)}
    assert (found == {"rough"}) == (activations == "int8")


def test_the_commands_pass_on_how_exact_activations_are(folder: Path, omniq, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, load = [], runtime.load

    def recording(*args: object, activations: str = "exact", **rest: object):
        asked.append(activations)
        return load(*args, activations=activations, **rest)

    for module in (runtime, evaluation):
        monkeypatch.setattr(module, "load", recording)
    (folder / "text.txt").write_text("the quick brown fox " * 40)
    commands = {
        "generate": ("generate", str(folder / "packed"), "hello", "-n", "1"),
        "eval": (
            "eval",
            str(folder / "packed"),
            "--text",
            str(folder / "text.txt"),
            "--length",
            "16",
            "--windows",
            "1",
        ),
    }
    for words in commands.values():
        assert omniq(*words, "--activations", "int8")[0] == 0
        code, _, err = omniq(*words, "--activations", "int4")
        assert (code, "activations are 'int4'; use one of exact, int8" in err) == (UsageError.exit_code, True)
        assert omniq(*words)[0] == 0
    assert asked == ["int8", "int4", "exact"] * 2
