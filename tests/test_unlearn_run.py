"""Unlearning of model folders: what is written, kept codes, the trainer, the command, and sentences for bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_tiny
from torch import nn
from unlearn_subjects import colours, taught, untaught

from omniq.calibrate.method import METHODS
from omniq.calibrate.view import BlockView
from omniq.checkpoint import Reader
from omniq.errors import DataError, ModelError, OutputError, UsageError
from omniq.hf import quiet
from omniq.knowledge.items import Item, Knowledge
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.spec import LinearSpec, QuantSpec
from omniq.subject.loading import load_subject
from omniq.unlearn.codes import KeptCodes, bounds, quantised_weights, rounded, snap
from omniq.unlearn.material import Material
from omniq.unlearn.method import UNLEARNERS
from omniq.unlearn.run import Unlearning, read_record, unlearn
from omniq.unlearn.training import Training, minimise, orders

SCHEME = LinearSpec.parse("W4A16g32")
FAST = Training(lr=2e-3, steps=12, batch_size=4, schedule="constant")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that knows the colours, its weights on the grid of SCHEME."""
    quiet()
    subject = taught()
    snap(subject.model, SCHEME)
    folder = tmp_path_factory.mktemp("models") / "original"
    subject.model.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    return folder


def mean_nll(folder: Path, split: str) -> float:
    """-log p per token of a split's answers."""
    scored = load_subject(folder).ask([(item.question, item.answer) for item in colours().of(split, "qa")])
    return sum(-float(answer.logp.mean()) for answer in scored) / len(scored)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every stored tensor by name."""
    reader = Reader(folder)
    return {name: reader.read(name) for name in reader.names()}


# Folders.


def test_the_folder_is_complete_and_says_how_it_was_made(original: Path, tmp_path: Path) -> None:
    steps = []
    report = unlearn(
        original, colours(), Unlearning("grad_diff", {"alpha": 2.0}, FAST), tmp_path / "out",
        on_step=lambda *told: steps.append(told),
    )  # fmt: skip
    assert mean_nll(tmp_path / "out", "forget") > mean_nll(original, "forget") + 0.5
    assert [(done, total) for done, total, _ in steps] == [(step, 12) for step in range(1, 13)]
    record = read_record(tmp_path / "out")
    assert record["unlearning"]["options"] == {"gamma": 1.0, "alpha": 2.0}
    assert record["unlearning"]["training"]["lr"] == 2e-3
    assert (record["steps"], record["skipped_steps"], record["forget"], record["retain"]) == (12, 0, 4, 4)
    assert record["losses"][-1]["forget"] < record["losses"][0]["forget"]
    before, after = weights(original), weights(tmp_path / "out")
    change = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert report.largest_change == pytest.approx(change)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_same_call_writes_the_same_bytes(original: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        unlearn(original, colours(), Unlearning("npo", {}, replace(FAST, steps=3)), tmp_path / name)
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "unlearning.json"} <= files
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_an_interrupted_run_leaves_no_folder_behind(original: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(original, colours(), Unlearning("ga", {}, FAST), tmp_path / "out", on_step=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_folder_as_it_was(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, out = Unlearning("ga", {}, replace(FAST, steps=1)), tmp_path / "out"
    unlearn(original, colours(), once, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(self: nn.Module, folder: Path, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", full)
    with pytest.raises(OutputError, match="No space left on device; check space"):
        unlearn(original, colours(), once, out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_output_in_use_is_replaced_only_when_told_to(original: Path, tmp_path: Path) -> None:
    out, once = tmp_path / "out", replace(FAST, steps=1)
    unlearn(original, colours(), Unlearning("ga", {}, once), out)
    with pytest.raises(OutputError, match="is not empty; choose another or give --overwrite"):
        unlearn(original, colours(), Unlearning("kl", {}, once), out)
    unlearn(original, colours(), Unlearning("kl", {}, once), out, overwrite=True)
    assert read_record(out)["unlearning"]["method"] == "kl"
    assert read_record(original) is None


# Kept codes.


def rtn(folder: Path, out: Path, bits: int = 4) -> dict[str, torch.Tensor]:
    """The tensors that the preset rtn stores."""
    recipe = Recipe.from_dict({"scheme": f"W{bits}A16g32", "preset": "rtn"})
    quantize(str(folder), out, recipe)
    return weights(out)


def test_rounding_to_the_kept_grid_undoes_the_unlearning_and_a_finer_grid_does_not(
    original: Path, tmp_path: Path
) -> None:
    wanted = Unlearning("grad_diff", {}, replace(FAST, steps=30), keep_codes=SCHEME)
    unlearn(original, colours(), wanted, tmp_path / "unlearned")
    assert mean_nll(tmp_path / "unlearned", "forget") > mean_nll(original, "forget") + 0.5
    before, after = rtn(original, tmp_path / "a"), rtn(tmp_path / "unlearned", tmp_path / "b")
    assert all(torch.equal(before[name], after[name]) for name in before)
    fine, changed = rtn(original, tmp_path / "c", 8), rtn(tmp_path / "unlearned", tmp_path / "d", 8)
    assert not all(torch.equal(fine[name], changed[name]) for name in fine)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    seed=st.integers(0, 999),
    share=st.floats(0.01, 0.49),
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_codes_and_scales_stay_wherever_weights_lie_between_their_bounds(
    bits: int, symmetric: bool, seed: int, share: float, shift: float
) -> None:
    spec, rng = QuantSpec(bits, 8, symmetric), torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 16, generator=rng) + shift
    weight[0, :8] = 0.0
    lower, upper = bounds(weight, spec, share)
    assert bool((lower <= weight).all())
    assert bool((weight <= upper).all())
    for moved in (lower, upper, lower + (upper - lower) * torch.rand(4, 16, generator=rng)):
        assert rounded(moved.clamp(lower, upper), spec).equal(rounded(weight, spec))


def test_weights_on_their_grid_may_move_by_the_share_of_a_step() -> None:
    spec = QuantSpec(4, 8)
    weight = rounded(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), spec).dequantize()
    lower, upper = bounds(weight, spec, 0.45)
    step = rounded(weight, spec).scales.abs().repeat_interleave(8, 1)
    free = (upper - lower) > 0
    assert bool(free.any(1).all())
    torch.testing.assert_close((upper - weight)[free].max(), (0.45 * step)[free].max())
    # The largest weight of each group makes the scale, so it cannot move.
    largest = weight.abs().view(6, 2, 8) == weight.abs().view(6, 2, 8).amax(-1, keepdim=True)
    assert not bool(free.view(6, 2, 8)[largest].any())


def test_snapping_twice_is_snapping_once_and_rounds_as_rtn_does(original: Path) -> None:
    subject, other = taught(), taught()
    snap(subject.model, SCHEME)
    once = {name: weight.clone() for name, weight in quantised_weights(subject.model).items()}
    snap(subject.model, SCHEME)
    assert all(torch.equal(weight, once[name]) for name, weight in quantised_weights(subject.model).items())
    block = "model.layers.0"
    linears = {name for name in once if name.startswith(block)}
    view = BlockView(
        0, block, other.model.get_submodule(block),
        {name.removeprefix(block + "."): SCHEME for name in linears}, None, None, None, None, None,
        torch.float32, None, None, 0,
    )  # fmt: skip
    found = METHODS["rtn"]().block(view)
    assert all(torch.equal(q.dequantize(), once[f"{block}.{name}"]) for name, q in found.items())


def test_embeddings_norms_and_head_stay_where_codes_are_kept() -> None:
    subject = taught()
    kept = KeptCodes(subject.model, SCHEME)
    names = {id(parameter): name for name, parameter in subject.model.named_parameters()}
    trained = [names[id(parameter)] for parameter in kept.among(list(subject.model.parameters()))]
    assert trained == [f"{name}.weight" for name in quantised_weights(subject.model)]
    assert not any(word in name for name in trained for word in ("embed", "norm", "lm_head"))


# The trainer.


def test_the_rate_rises_then_falls_by_its_schedule() -> None:
    linear = Training(lr=1.0, steps=10, warmup=0.2, schedule="linear")
    assert [round(linear.rate(step, 10), 6) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    assert replace(linear, schedule="constant").rate(9, 10) == 1.0
    assert replace(linear, schedule="cosine").rate(6, 10) == pytest.approx(0.5)


def test_an_epoch_takes_every_sequence_once_and_steps_count_instead_of_epochs() -> None:
    training = Training(epochs=2, batch_size=4)
    found = list(orders(10, training))
    assert [len(part) for part in found] == [4, 4, 2, 4, 4, 2]
    for epoch in (found[:3], found[3:]):
        assert sorted(index for part in epoch for index in part) == list(range(10))
    assert found[:3] != found[3:]
    assert list(orders(10, replace(training, steps=2))) == found[:2]


def test_a_step_whose_loss_is_not_finite_is_skipped_and_counted() -> None:
    weight = nn.Parameter(torch.ones(1))
    factors = [[1.0], [float("nan")], [float("inf")], [1.0]]
    trained = minimise(
        [weight], factors, 4, lambda factor: {"loss": factor * weight.sum()},
        Training(lr=0.1, schedule="constant", weight_decay=0.0),
    )  # fmt: skip
    assert (trained.steps, trained.skipped) == (4, 2)
    assert float(weight.detach()) == pytest.approx(0.8, abs=1e-5)
    with pytest.raises(ModelError, match="none of 1 training steps had a finite loss"):
        minimise([weight], [[float("nan")]], 1, lambda factor: {"loss": factor * weight.sum()}, Training())


def test_bfloat16_computes_nearly_the_same_step(original: Path, tmp_path: Path) -> None:
    losses = []
    for fast in (False, True):
        training = replace(FAST, steps=1, bfloat16=fast)
        report = unlearn(original, colours(), Unlearning("kl", {}, training), tmp_path / str(fast))
        losses.append(report.losses[0]["forget"])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert losses[0] != losses[1]


# Bad input.


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be a number above 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"pass_tokens": 0}, "pass_tokens is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"schedule": "square"}, "schedule is 'square'; use one of constant, linear, cosine"),
    ],
)
def test_training_that_cannot_work_is_refused(settings: dict[str, float | str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Training(**settings)


ONLY_TEXT = Knowledge(
    "texts",
    (
        Item("a", "forget", "document", text="Ada likes red."),
        Item("b", "retain", "document", text="Bob likes blue."),
    ),
)
NO_RETAIN = Knowledge("half", colours().of("forget"))
LONELY = Knowledge("lonely", (Item("a", "forget", question="Ada?", answer="red"), *colours().of("retain")))


@pytest.mark.parametrize(
    ("unlearning", "knowledge", "kind", "sentence"),
    [
        (Unlearning("gradient"), colours(), UsageError, "unknown unlearning method 'gradient'"),
        (Unlearning("npo", {"gama": 1.0}), colours(), UsageError, "unknown key 'gama'; known: beta, gamma, alpha"),
        (Unlearning("npo", {"beta": "big"}), colours(), UsageError, "option beta is 'big'; expected a number"),
        (Unlearning("rmu", {"layer": 2}), colours(), UsageError, "layer is 2; the model has blocks 0 to 1"),
        (Unlearning("idk"), ONLY_TEXT, DataError, "'a' is a document without a question; use a method"),
        (Unlearning("npo"), NO_RETAIN, DataError, "split retain .it has forget.; give data with a retain split"),
        (Unlearning("ga"), Knowledge("kept", colours().of("retain")), DataError, "no item to learn from in the split"),
        (Unlearning("ga", forms=("cloze",)), colours(), DataError, "no item of the forms cloze"),
        (Unlearning("ga", forms=("poem",)), colours(), UsageError, "there is no form 'poem' of items"),
        (Unlearning("random_label"), LONELY, DataError, "'a' has no wrong answer, and no other item has its relation"),
        (Unlearning("ga", keep_codes=SCHEME, share=0.5), colours(), UsageError, "share is 0.5"),
        (Unlearning("ga", template="chat"), colours(), UsageError, "the tokenizer has no chat template"),
    ],
)
def test_what_cannot_be_unlearned_is_refused_with_a_sentence(
    original: Path, tmp_path: Path, unlearning: Unlearning, knowledge: Knowledge, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        unlearn(original, knowledge, unlearning, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_are_unlearned_where_there_are_no_questions(original: Path, tmp_path: Path) -> None:
    report = unlearn(original, ONLY_TEXT, Unlearning("grad_diff", {}, replace(FAST, steps=2)), tmp_path / "out")
    assert (report.forget, report.retain) == (1, 1)


def test_the_model_itself_and_a_quantised_one_are_refused(original: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is the model itself"):
        unlearn(original, colours(), Unlearning("ga"), original, overwrite=True)
    rtn(original, tmp_path / "quantised")
    with pytest.raises(ModelError, match="is quantised; unlearn the floating-point model"):
        unlearn(tmp_path / "quantised", colours(), Unlearning("ga"), tmp_path / "out")


def test_a_bfloat16_model_is_unlearned_with_a_note_and_its_codes_are_not_kept(tmp_path: Path) -> None:
    folder, told = save_tiny("llama", tmp_path / "half", torch.bfloat16), []
    unlearn(folder, colours(), Unlearning("ga", {}, replace(FAST, steps=1)), tmp_path / "out", tell=told.append)
    assert len(told) == 1
    assert "half is stored in bfloat16 and the result in float32" in told[0]
    with pytest.raises(ModelError, match="stored in bfloat16, where codes cannot be kept exactly; make a float32"):
        unlearn(folder, colours(), Unlearning("ga", keep_codes=SCHEME), tmp_path / "other")


def test_sequences_longer_than_max_tokens_are_cut() -> None:
    training = replace(FAST, max_tokens=20)
    rows = [
        row for rows in Material(untaught(), colours(), UNLEARNERS["idk"](), "idk", training).rows() for row in rows
    ]
    whole = [row for rows in Material(untaught(), colours(), UNLEARNERS["idk"](), "idk", FAST).rows() for row in rows]
    assert max(len(row.forget.ids) for row in whole) > 20
    assert [row.forget.ids for row in rows] == [row.forget.ids[: max(20, row.forget.prompt + 1)] for row in whole]


# The command.


def test_the_command_unlearns_and_prints_one_json_object(omniq, original: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": i.question, "answer": i.answer, "split": i.split} for i in colours().of(form="qa")]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ("unlearn", str(original), "--data", f"jsonl:{data}", "--out", str(tmp_path / "out"), "--json")
    code, out, _ = omniq(*words, "--method", "npo", "--set", "beta=0.3", "--steps", "2", "--lr", "1e-3")
    assert code == 0
    report = json.loads(out)
    assert report["unlearning"]["options"]["beta"] == 0.3
    assert report["unlearning"]["training"]["lr"] == 1e-3
    assert report["steps"] == 2
    code, _, error = omniq(*words, "--method", "npo")
    assert code == OutputError.exit_code
    assert "is not empty" in error


def test_the_list_of_unlearners_names_their_options(omniq) -> None:
    code, out, _ = omniq("list", "unlearners", "--json")
    rows = {row["name"]: row for row in json.loads(out)["unlearners"]}
    assert code == 0
    assert rows["npo"]["options"] == "beta=0.1, gamma=1.0, alpha=1.0"
    assert rows["rmu"]["options"].startswith("layer=auto")
