"""omniq.harness: lm-evaluation-harness finds what omniq finds, on dense models and on omniq's kernels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXT, save_tiny, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from omniq import runtime
from omniq.audit.asking import QUESTION_STOPS
from omniq.audit.lm_eval_export import GROUP, export
from omniq.cli import app
from omniq.errors import DataError, ModelError, UnsupportedError, UsageError
from omniq.harness.available import check_lm_eval
from omniq.hf import load_tokenizer
from omniq.knowledge.items import Item, Knowledge
from omniq.nn import QuantLinear
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.subject.loading import load_subject

SENTENCES = [part.strip() for part in TEXT.split(".") if part.strip()]
KNOWLEDGE = Knowledge(
    "tiny",
    (
        *(Item(f"q{n}", "retain", question=s, answer=s.split()[-1]) for n, s in enumerate(SENTENCES)),
        *(Item(f"c{n}", "retain", "completion", prefix=s[:9], answer=s[9:].strip()) for n, s in enumerate(SENTENCES)),
        Item("m", "retain", "choice", question="Who?", choices=("Ada", "a lazy dog"), answer_index=0, answer="Ada"),
    ),
)
LL, GEN = "omniq_retain_ll", "omniq_retain_gen"


@pytest.fixture(scope="module", autouse=True)
def harness() -> Iterator[None]:
    """lm-eval, without asking pip and git about this machine: that takes seconds and changes no score."""
    pytest.importorskip("lm_eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dense, w4, bos (dense, whose tokenizer puts a BOS before every text), w4-tied and tasks."""
    base = tmp_path_factory.mktemp("harness")
    for name, model in (("dense", "llama"), ("tied", "llama-tied"), ("bos", "llama")):
        save_tiny(model, base / name)
    for source, out in (("dense", "w4"), ("tied", "w4-tied")):
        quantize(str(base / source), base / out, Recipe(LinearSpec.parse("W4A16g32"), preset="rtn"))
    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save_pretrained(base / "bos")
    export(KNOWLEDGE, base / "tasks", answer_tokens=6)
    return base


def spec(base: Path, *tasks: str, **settings: Any) -> Any:
    from omniq.harness.tasks import HarnessSpec

    return HarnessSpec(tasks, base / "tasks", **settings)


def likelihoods(results: dict[str, Any]) -> dict[str, float]:
    """Item id -> the log-probability that lm-eval found for its answer."""
    return {sample["doc"]["id"]: sample["resps"][0][0][0] for sample in results["samples"][LL]}


def omniq(*words: str) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as leaving:
        app.main(words)
    return leaving.value.code or 0


@pytest.mark.parametrize("name", ["dense", "bos", "w4"])
@pytest.mark.parametrize("batch", [1, 3])
def test_lm_eval_finds_the_likelihoods_that_omniq_finds(name: str, batch: int, base: Path) -> None:
    from omniq.harness.tasks import found

    theirs = likelihoods(found(spec(base, LL, batch=batch)).results(base / name, device="cpu"))
    rows = [json.loads(line) for line in (base / "tasks" / f"{LL}.jsonl").read_text().splitlines()]
    ours = load_subject(base / name).score([(row["prompt"], row["target"]) for row in rows])
    assert len(theirs) == len(rows) == 2 * len(SENTENCES)
    for row, scored in zip(rows, ours, strict=True):
        assert theirs[row["id"]] == pytest.approx(scored.logp.sum(), abs=1e-4)


def test_plain_lm_eval_gives_the_exported_folder_the_same_scores(base: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from omniq.harness.tasks import found, scores

    asked = found(spec(base, GROUP, batch=2))
    plain = HFLM(pretrained=str(base / "w4"), device="cpu", dtype="float32", batch_size=2)
    theirs, ours = asked.results(plain), asked.results(base / "w4", device="cpu", dtype="float32")
    assert likelihoods(theirs) == pytest.approx(likelihoods(ours), abs=1e-3)
    assert [(s.task, s.metric, s.n) for s in scores(theirs)] == [(s.task, s.metric, s.n) for s in scores(ours)]
    for ours_, theirs_ in zip(scores(ours), scores(theirs), strict=True):
        assert ours_.value == pytest.approx(theirs_.value, abs=1e-3)


def test_a_packed_checkpoint_runs_on_omniqs_kernels_and_a_dense_one_does_not(base: Path) -> None:
    from omniq.harness.wrapper import OmniqLM

    packed, dense = (OmniqLM(base / name, device="cpu").model for name in ("w4", "dense"))
    assert runtime.kernels_of(packed)
    assert not any(isinstance(module, QuantLinear) for module in dense.modules())


def test_answers_are_those_of_greedy_decoding_however_they_are_batched(base: Path) -> None:
    from omniq.harness.tasks import found

    subject = load_subject(base / "w4")
    for batch in (1, 3):
        results = found(spec(base, GEN, batch=batch)).results(base / "w4", device="cpu")
        for sample in results["samples"][GEN]:
            (written,) = subject.generate([sample["doc"]["prompt"]], 6, QUESTION_STOPS)
            # A random model also writes its BOS, which lm-eval does not show.
            assert sample["resps"][0][0].strip() == written.replace("<s>", "").strip()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_rounded_token_table_is_what_lm_eval_computes_with(bits: int, base: Path) -> None:
    from omniq.harness.wrapper import OmniqLM

    ids = torch.arange(2, 40)[None]
    expected = runtime.load(base / "w4-tied", embed_bits=bits)(input_ids=ids).logits
    found = OmniqLM(base / "w4-tied", device="cpu", embed_bits=bits).model(input_ids=ids).logits
    torch.testing.assert_close(found, expected)


def test_a_model_in_memory_scores_as_its_folder(base: Path) -> None:
    from omniq.harness.tasks import run

    model, tokenizer = runtime.load(base / "w4"), load_tokenizer(base / "w4")
    asked = spec(base, "omniq_retain_mcq", LL, limit=3)
    live, loaded = run(model, asked, tokenizer=tokenizer), run(str(base / "w4"), asked, device="cpu")
    assert live == loaded
    assert {(score.task, score.n) for score in live} == {("omniq_retain_mcq", 1), (LL, 3)}


def test_standard_errors_are_those_of_a_mean(base: Path) -> None:
    from omniq.harness.tasks import found, scores

    results = found(spec(base, LL)).results(base / "dense", device="cpu")
    values = torch.tensor(list(likelihoods(results).values()), dtype=torch.float64)
    (score,) = (score for score in scores(results) if score.metric == "logprob")
    assert score.value == pytest.approx(values.mean().item())
    assert score.stderr == pytest.approx((values.std() / len(values) ** 0.5).item())


def test_a_filter_and_a_group_are_named_and_an_unknown_error_is_none() -> None:
    from omniq.harness.tasks import TaskScore, scores

    results = {
        "results": {
            "t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 1, "em_stderr,strict": "N/A"}
        },
        "groups": {"g": {"acc,none": 0.25, "acc_stderr,none": 0.2, "alias": "g"}},
        "n-samples": {"t": {"original": 9, "effective": 4}},
    }
    expected = [TaskScore("t", "acc", 0.5, 0.1, 4), TaskScore("t", "em,strict", 1.0, None, 4)]
    assert scores(results) == [*expected, TaskScore("g", "acc", 0.25, 0.2, None)]


# On the command line -----------------------------------------------------------------------------------------------


def test_eval_prints_scores_with_their_errors_beside_the_original(base: Path, capsys: pytest.CaptureFixture) -> None:
    words = ("eval", str(base / "w4"), "--tasks", LL, "--include-path", str(base / "tasks"), "--limit", "2")
    assert omniq(*words, "--against", str(base / "dense"), "--device", "cpu", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert "ppl" not in said
    assert said["tasks_protocol"].endswith("at most the first 2 items of each task")
    ours, original = (said[key][LL]["logprob"] for key in ("tasks", "tasks_original"))
    assert ours["n"] == original["n"] == 2
    assert ours["value"] != original["value"]
    assert ours["stderr"] > 0


def test_eval_shows_text_and_tasks_in_one_run(base: Path, capsys: pytest.CaptureFixture) -> None:
    (base / "text.txt").write_text(TEXT * 4)
    text = ("--text", str(base / "text.txt"), "--length", "16", "--windows", "2")
    asked = ("--tasks", "omniq_retain_m*", "--include-path", str(base / "tasks"), "--batch", "2")
    assert omniq("eval", str(base / "w4"), *text, *asked, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("perplexity", "omniq_retain_mcq", "acc_norm", "lm-eval"))


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ((), DataError, "--text FILE"),
        (("--limit", "3", "--text", "x"), UsageError, "--limit says something about tasks"),
        (("--tasks", ",", "--include-path", "{tasks}"), UsageError, "no task is named"),
        (("--tasks", LL, "--include-path", "{tasks}", "--limit", "0"), UsageError, "limit is 0"),
        (("--tasks", LL, "--include-path", "/nowhere"), DataError, "is not a folder"),
    ],
)
def test_eval_refuses_what_makes_no_sense(
    words: tuple[str, ...], error: type, said: str, base: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [word.format(tasks=base / "tasks") for word in words]
    assert omniq("eval", str(base / "w4"), *given) == error.exit_code
    assert said in capsys.readouterr().err


def test_a_task_that_does_not_exist_is_told_with_one_that_does(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    from omniq.harness import tasks

    # Of the built-in ones too, which take seconds to list.
    monkeypatch.setattr(tasks, "TaskManager", lambda include_path, **_: TaskManager(None, include_path, False))
    with pytest.raises(UsageError, match="no task 'omniq_retain_lk'; did you mean 'omniq_retain_ll'"):
        tasks.found(spec(base, LL, "omniq_retain_lk"))


def test_a_task_whose_data_cannot_be_read_is_a_sentence(base: Path, tmp_path: Path) -> None:
    from omniq.harness.tasks import HarnessSpec, run

    values = {"task": "lost", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "/nowhere/x.jsonl"}}}
    values |= {"test_split": "test", "output_type": "loglikelihood", "doc_to_text": "a", "doc_to_target": " b"}
    (tmp_path / "lost.yaml").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"lm-eval cannot run lost: .*nowhere"):
        run(base / "dense", HarnessSpec(("lost",), tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("folder", "settings", "error", "said"),
    [
        ("w4", {"peft": "x"}, UsageError, "has no argument 'peft'"),
        ("w4", {"dtype": "int8"}, UsageError, "dtype is 'int8'"),
        ("w4", {"device": "toaster"}, UsageError, "device is 'toaster'"),
        ("w4", {"device": "cuda:99"}, UsageError, "torch sees"),
        ("dense", {"embed_bits": 8}, UsageError, "is not quantised"),
        ("tasks", {}, ModelError, "config.json"),
    ],
)
def test_the_model_refuses_settings_that_it_cannot_follow(
    folder: str, settings: dict[str, Any], error: type, said: str, base: Path
) -> None:
    from omniq.harness.wrapper import OmniqLM

    with pytest.raises(error, match=said):
        OmniqLM(base / folder, **settings)


def test_lm_evals_own_command_line_knows_the_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from lm_eval.tasks import TaskManager

    from omniq.harness.__main__ import main
    from omniq.harness.tasks import run

    # Without listing the built-in tasks, which takes seconds.
    whole = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **k: whole(self, *a, **{**k, "include_defaults": False})
    )
    model = ["--model", "omniq", "--model_args", f"pretrained={base / 'w4'},dtype=float32", "--device", "cpu"]
    asked = ["--tasks", LL, "--include_path", str(base / "tasks"), "--output_path", str(tmp_path), "--log_samples"]
    monkeypatch.setattr(sys, "argv", ["lm-eval", "run", *model, *asked])
    main()
    (file,) = tmp_path.rglob("results_*.json")
    written = json.loads(file.read_text())["results"][LL]["logprob,none"]
    (ours,) = (score.value for score in run(base / "w4", spec(base, LL), device="cpu") if score.metric == "logprob")
    assert written == pytest.approx(ours)
    assert LL in capsys.readouterr().out


def test_a_mistake_on_that_command_line_is_one_sentence(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from omniq.harness import __main__ as entry

    def refuse() -> None:
        raise ModelError("there is no model here")

    monkeypatch.setattr(entry, "hand_over", refuse)
    with pytest.raises(SystemExit) as leaving:
        entry.main()
    assert leaving.value.code == ModelError.exit_code
    assert capsys.readouterr().err == "omniq.harness: there is no model here\n"


def test_without_lm_eval_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniq.harness.available.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'omniq\[lm-eval\]'"):
        check_lm_eval()
