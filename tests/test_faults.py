"""Faults: what fails in a run ends with a sentence, leaves nothing under the final name, and can go on."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import save_text, save_tiny, tiny_model, tiny_tokenizer, tokens

from omniq import pipeline
from omniq.calibrate.cache import cached
from omniq.calibrate.data import DataSpec
from omniq.cli import app
from omniq.demo import fetch_demo, packaged_files
from omniq.errors import ModelError, OmniqError, OutputError, VerificationError
from omniq.events import BlockDone, Event, Started
from omniq.hf import load_dense
from omniq.job import Job
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.runtime import load
from omniq.spec import LinearSpec
from omniq.work import Work

OPTIONS = {"rtn": {}, "gptq": {}, "awq": {"grid": 3}, "omniquant": {"epochs": 2}}


pytestmark = pytest.mark.usefixtures("own_cache")


class Place:
    """A tiny model, a text, and what an undisturbed gptq run makes of them."""

    def __init__(self, root: Path) -> None:
        self.model = save_tiny("llama", root / "model")
        self.text = root / "text.txt"
        save_text(self.text)
        quantize(str(self.model), root / "whole", self.recipe())
        self.weights = (root / "whole" / "model.safetensors").read_bytes()

    def recipe(self, preset: str = "gptq", scheme: str = "W3A16g16") -> Recipe:
        return Recipe(LinearSpec.parse(scheme), preset, OPTIONS[preset], DataSpec(str(self.text), 4, 24))

    def run(self, out: Path, on_event: Callable[[Event], None] = lambda event: None, **options) -> None:
        quantize(str(self.model), out, self.recipe(), on_event=on_event, **options)

    def same(self, out: Path) -> bool:
        """Whether `out` holds what the undisturbed run made, and nothing is left beside it."""
        return (out / "model.safetensors").read_bytes() == self.weights and not list(out.parent.glob(".*.omniq"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "cache_folder", lambda: root / "cache")
        return Place(root)


class Stop(Exception):
    """Raised to interrupt a run at a chosen block."""


def after(index: int, do: Callable[[], None]) -> Callable[[Event], None]:
    """A listener that calls `do` when block `index` is done."""
    return lambda event: do() if isinstance(event, BlockDone) and event.index == index else None


def stop() -> None:
    raise Stop


def stopped(place: Place, out: Path) -> Path:
    """The work folder of a run that ended after its first block."""
    with pytest.raises(Stop):
        place.run(out, after(0, stop))
    return out.with_name(f".{out.name}.omniq")


WRITES = [
    "run.json",
    "block-00000.safetensors",
    "streams-00000-0-of-1.safetensors",
    "block-00001.safetensors",
    "streams-00001-0-of-1.safetensors",
    "result/model.safetensors",
    "result/config.json",
    "result/README.md",
    "result/tokenizer.json",
]


@pytest.mark.skipif(sys.platform != "linux", reason="names open files through /proc")
def test_a_disk_that_fills_up_at_any_file_ends_with_a_sentence_and_the_run_can_go_on(place, tmp_path, monkeypatch):
    """One run that fails at each of its files in turn, each time going on where the last attempt ended."""
    fsync, out = os.fsync, tmp_path / "out"

    def full(descriptor: int) -> None:
        folder, file = os.path.split(os.readlink(f"/proc/self/fd/{descriptor}"))
        if f"{folder}/{file.removeprefix('.').removesuffix('.tmp')}".endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for name in WRITES:
        with pytest.raises(OutputError, match=f"disk is full: .*{Path(name).name} needs"):
            place.run(out)
        assert not out.exists()
        assert not list(tmp_path.rglob("*.tmp"))
    name = "no file"
    place.run(out)
    assert place.same(out)


@pytest.mark.parametrize("name", ["block-00000", "block-00001"])
def test_a_block_whose_file_is_complete_is_never_done_again(name, place, tmp_path, monkeypatch):
    """Stopped right after a block's file has its name, before anything else of the block is done."""
    out, replace, done = tmp_path / "out", os.replace, []

    def stopping(source, target) -> None:
        replace(source, target)
        if Path(target).name == f"{name}.safetensors":
            raise Stop

    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(Stop):
        place.run(out)
    monkeypatch.setattr(os, "replace", replace)
    place.run(out, lambda event: done.append(event.index) if isinstance(event, BlockDone) else None)
    assert done == [index for index in range(2) if index > int(name[-1])]
    assert place.same(out)


def ready_to_publish(place: Place, out: Path, monkeypatch) -> Path:
    """The work folder of a run that was killed right before its finished checkpoint was moved to its place."""
    folder, replace = out.with_name(f".{out.name}.omniq"), os.replace

    def stopping(source, target) -> None:
        if Path(target) == out:
            shutil.copytree(folder, out.parent / "kept")
            raise Stop
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(Stop):
        place.run(out)
    monkeypatch.setattr(os, "replace", replace)
    shutil.rmtree(folder)
    return Path(shutil.move(out.parent / "kept", folder))


def test_a_run_killed_right_before_its_result_is_moved_loses_nothing(place, tmp_path, monkeypatch):
    out, starts = tmp_path / "out", []
    assert not (ready_to_publish(place, out, monkeypatch) / "run.json").exists()
    place.run(out, starts.append)
    assert next(event.resumed_at for event in starts if isinstance(event, Started)) == 2
    assert place.same(out)


def test_a_run_killed_right_after_its_result_is_moved_leaves_nothing_behind_for_long(place, tmp_path, monkeypatch):
    out = tmp_path / "out"
    folder = ready_to_publish(place, out, monkeypatch)
    os.replace(folder / "result", out)
    with pytest.raises(OutputError, match="is not empty"):
        place.run(out)
    assert place.same(out)


def test_an_unfinished_run_is_kept_where_the_output_holds_an_older_model(place, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(place.model, out)
    with pytest.raises(Stop):
        place.run(out, after(0, stop), overwrite=True)
    with pytest.raises(OutputError, match="is not empty"):
        place.run(out)
    assert (tmp_path / ".out.omniq" / BLOCK).is_file()


@pytest.mark.parametrize("where", [0.02, 0.5, 0.999])
def test_a_bit_that_changes_before_the_result_is_read_back_is_never_published(where, place, tmp_path, monkeypatch):
    out, write = tmp_path / "out", Job.write

    def flipping(job, work, result) -> None:
        write(job, work, result)
        flip(result / "model.safetensors", where)

    monkeypatch.setattr(Job, "write", flipping)
    with pytest.raises((VerificationError, ModelError)):
        place.run(out)
    assert not out.exists()
    monkeypatch.setattr(Job, "write", write)
    place.run(out)
    assert place.same(out)


def test_a_copied_file_that_ends_early_is_named(place, tmp_path, monkeypatch):
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path)[:-3] if path == place.model / "tokenizer.json" else read(path)
    )
    with pytest.raises(ModelError, match=r"tokenizer.json became shorter while it was read"):
        place.run(tmp_path / "out")


@pytest.mark.parametrize("there", [False, True])
def test_a_checkpoint_that_cannot_be_moved_to_its_name_leaves_what_was_there(there, place, tmp_path, monkeypatch):
    out, replace = tmp_path / "out", os.replace
    if there:
        shutil.copytree(place.model, out)

    def refusing(source, target) -> None:
        if Path(target) == out and Path(source).name == "result":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(OutputError, match=r"cannot move .* to .*out: Permission denied.* same command"):
        place.run(out, overwrite=there)
    assert out.exists() == there
    if there:
        assert (out / "model.safetensors").read_bytes() == (place.model / "model.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", replace)
    place.run(out, overwrite=there)
    assert place.same(out)


def test_a_cache_that_cannot_be_written_costs_nothing_but_a_note(tmp_path):
    (tmp_path / "file").write_text("")
    ids, note = cached(tmp_path / "file" / "cache", "key", (2, 24), lambda: tokens(2, 24))
    assert torch.equal(ids, tokens(2, 24))
    assert "could not be kept" in note


def test_a_source_file_that_goes_away_or_shrinks_is_named_and_the_run_can_go_on(place, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    load_dense(place.model, torch.float32).save_pretrained(model, max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(model)
    moved = Place.__new__(Place)
    moved.__dict__ |= place.__dict__ | {"model": model}
    last = sorted(model.glob("*.safetensors"))[-1]
    raw = last.read_bytes()
    for damage, rule in ((last.unlink, "cannot read tensor"), (lambda: last.write_bytes(raw[:-9]), "became shorter")):
        shutil.rmtree(tmp_path / ".out.omniq", ignore_errors=True)
        with pytest.raises(ModelError, match=rf"{rule}.*{last.name}|{last.name} {rule}"):
            moved.run(out, after(0, damage))
        assert not out.exists()
        last.write_bytes(raw)
    moved.run(out)
    assert moved.same(out)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, where: float) -> None:
    """Inverts one bit, at this share of the file."""
    raw = bytearray(path.read_bytes())
    raw[int(where * (len(raw) - 1))] ^= 4
    path.write_bytes(raw)


BLOCK, STREAMS = "block-00000.safetensors", "streams-00000-0-of-1.safetensors"
DAMAGE: list[tuple[str, Callable[[Path], None]]] = [
    (BLOCK, cut),
    (STREAMS, cut),
    (BLOCK, lambda path: path.write_bytes(b"")),
    (BLOCK, lambda path: shutil.copyfile(path.with_name(STREAMS), path)),
    *((BLOCK, lambda path, at=at: flip(path, at)) for at in (0, 0.02, 0.1, 0.5, 0.9, 1)),
    *((STREAMS, lambda path, at=at: flip(path, at)) for at in (0, 0.01, 0.3, 1)),
    ("run.json", lambda path: path.write_text("")),
    ("run.json", lambda path: path.write_bytes(b"\xff\xfe{")),
    ("run.json", lambda path: path.write_text("[]")),
]


def test_a_damaged_work_folder_is_never_trusted(place, tmp_path):
    out = tmp_path / "out"
    folder = stopped(place, out)
    for name, damage in DAMAGE:
        intact = (folder / name).read_bytes()
        damage(folder / name)
        with pytest.raises(OutputError, match=f"{name} is damaged.*--overwrite"):
            place.run(out)
        assert not out.exists()
        (folder / name).write_bytes(intact)
    place.run(out)
    assert place.same(out)


def test_a_damaged_work_folder_is_started_anew_when_asked(place, tmp_path):
    out = tmp_path / "out"
    flip(stopped(place, out) / STREAMS, 0.7)
    place.run(out, overwrite=True)
    assert place.same(out)


def test_a_block_of_another_run_is_not_taken_over(place, tmp_path):
    out = tmp_path / "out"
    folder = stopped(place, out)
    with pytest.raises(Stop):
        quantize(str(place.model), tmp_path / "b", place.recipe(scheme="W3A16g8"), on_event=after(0, stop))
    shutil.copyfile(tmp_path / ".b.omniq" / BLOCK, folder / BLOCK)
    with pytest.raises(OutputError, match=f"{BLOCK} is damaged"):
        place.run(out)


def test_a_work_folder_without_its_description_is_started_anew(place, tmp_path):
    out = tmp_path / "out"
    folder = stopped(place, out)
    (folder / "run.json").unlink()
    (folder / "block-00001.safetensors").write_bytes((folder / BLOCK).read_bytes())
    place.run(out)
    assert place.same(out)


def test_an_edited_description_is_another_run(place, tmp_path):
    out = tmp_path / "out"
    path = stopped(place, out) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "abacus"}))
    with pytest.raises(OutputError, match="device was abacus, now cpu"):
        place.run(out)


@pytest.mark.parametrize("at", [0.5, 0.9, 0.999])
def test_a_block_damaged_while_the_run_goes_on_is_not_published(at, place, tmp_path):
    out = tmp_path / "out"
    path = tmp_path / ".out.omniq" / BLOCK
    with pytest.raises(VerificationError, match="do not use this checkpoint"):
        place.run(out, after(1, lambda: flip(path, at)))
    assert not out.exists()
    with pytest.raises(OutputError, match=f"{BLOCK} is damaged"):
        place.run(out)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError("can't allocate memory")], ids=str)
def test_a_failure_in_the_middle_of_an_epoch_costs_that_block_only(error, place, tmp_path, monkeypatch):
    recipe = place.recipe("omniquant")
    quantize(str(place.model), tmp_path / "whole", recipe)
    step, count = torch.optim.AdamW.step, [0]

    def failing(self, *args):
        count[0] += 1
        if count[0] == 8 + 6:  # 4 samples, 2 epochs: the second block's second epoch
            raise error
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        quantize(str(place.model), tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
    starts = []
    quantize(str(place.model), tmp_path / "out", recipe, on_event=starts.append)
    assert next(event.resumed_at for event in starts if isinstance(event, Started)) == 1
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_signal_ends_the_command_and_the_same_command_goes_on(number, code, place, tmp_path, monkeypatch, capsys):
    save, out, before = Work.save, tmp_path / "out", signal.getsignal(number)
    words = ["quantize", str(place.model), "-o", str(out), "--wbits", "3", "--group-size", "16", "--preset", "gptq"]
    words += ["--calib", str(place.text), "--samples", "4", "--length", "24"]

    def signalled(self, block, *args) -> None:
        save(self, block, *args)
        if block.index == 0:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Work, "save", signalled)
    with pytest.raises(SystemExit) as leaving:
        app.main(words)
    assert leaving.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == (
        "omniq: interrupted; run the same command again to go on where it stopped"
    )
    assert signal.getsignal(number) == before
    assert not out.exists()
    monkeypatch.setattr(Work, "save", save)
    with pytest.raises(SystemExit) as leaving:
        app.main(words)
    assert leaving.value.code in (0, None)
    assert "going on at block 2 of 2" in capsys.readouterr().err
    assert place.same(out)


POISON = {
    "an infinite embedding": ("model.embed_tokens.weight", float("inf"), "embed_tokens.* NaN or infinite"),
    "an infinite weight": ("model.layers.1.mlp.up_proj.weight", float("-inf"), "layers.1.mlp.up_proj.* NaN or inf"),
    "NaN in a norm": ("model.layers.0.input_layernorm.weight", float("nan"), "layers.0.input_layernorm.* NaN"),
    "NaN in the head": ("lm_head.weight", float("nan"), "lm_head.* NaN"),
    "NaN in the last norm": ("model.norm.weight", float("nan"), "model.norm.* NaN"),
    "exploding activations": ("model.layers.0.mlp.down_proj.weight", 3e38, "layers.[01].* infinite hidden states"),
}


@pytest.mark.parametrize("case", list(POISON))
def test_a_model_that_is_not_made_of_numbers_is_refused_by_name(case, place, tmp_path):
    name, value, rule = POISON[case]
    _, model = tiny_model("llama")
    model.get_parameter(name).data.view(-1)[5:90] = value
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=rule) as caught:
        quantize(str(tmp_path / "model"), tmp_path / "out", place.recipe())
    assert isinstance(caught.value, OmniqError)
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def degenerate(folder: Path, dtype: torch.dtype) -> Path:
    """A model with zero rows, groups and matrices, constant rows, dead channels and loud ones."""
    _, model = tiny_model("llama")
    first, second = model.model.layers
    first.self_attn.q_proj.weight[:7] = 0
    first.mlp.down_proj.weight[:, 16:48] = 0
    first.mlp.up_proj.weight[3:6] = 0.25
    first.mlp.gate_proj.weight[8] = -1e-7
    first.input_layernorm.weight[:5] = 0
    second.self_attn.o_proj.weight.zero_()
    second.mlp.gate_proj.weight[0] *= 40
    second.post_attention_layernorm.weight[9] = 40
    model.to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("preset", "scheme"), [(p, "W3A16g16") for p in OPTIONS] + [("omniquant", "W4A4")])
def test_degenerate_weights_are_quantised_and_load(preset, scheme, dtype, place, tmp_path):
    folder = degenerate(tmp_path / "model", dtype)
    quantize(str(folder), tmp_path / "out", place.recipe(preset, scheme))
    model, ids = load(tmp_path / "out"), tokens(2, 24)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert logits.dtype == dtype
        assert torch.isfinite(logits).all()
        if scheme == "W3A16g16":
            torch.testing.assert_close(
                load(tmp_path / "out", dtype=torch.float32)(input_ids=ids).logits,
                load_dense(tmp_path / "out", torch.float32)(input_ids=ids).logits,
                rtol=1e-3,
                atol=1e-3,
            )


SCHEME = ["--wbits", "4", "--group-size", "64", "--preset", "gptq", "--samples", "4", "--length", "128"]


def killed(command: list[str], blocks: int, share: float, env: dict[str, str]) -> None:
    """Runs a command and kills it: when `blocks` more blocks are done, and `share` of a block's time has passed."""
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    began, seen = time.monotonic(), 0
    for line in process.stderr:
        if line.startswith("block "):
            seen, began, took = seen + 1, time.monotonic(), time.monotonic() - began
        if seen == blocks:
            break
    time.sleep(share * took)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_real_model_killed_four_times_ends_with_the_same_bits(shared_data, tmp_path):
    try:
        packaged_files("smollm2")
    except ModelError as reason:
        pytest.skip(str(reason))
    model = fetch_demo(tmp_path / "model", "smollm2")
    text = shared_data / "wikitext-2" / "wiki.valid.clean.txt"
    command = [sys.executable, "-c", "from omniq.cli.app import main; main()", "quantize", str(model), *SCHEME]
    command += ["--calib", str(text), "-o"]
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    moments = random.Random(time.time_ns())
    for _ in range(4):
        killed([*command, str(tmp_path / "out")], moments.randint(1, 6), moments.random(), env)
        assert not (tmp_path / "out").exists()
    for name in ("out", "whole"):
        subprocess.run([*command, str(tmp_path / name)], env=env, check=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert weights[0] == weights[1]
