"""Numerical trouble: every row of docs/numerics.md, over every preset, and over every format that stores it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from subjects import QUICK, Tiny, trainer
from tiny import save_text, save_tiny, tiny_model, tiny_tokenizer, tokens
from torch import Tensor, nn

from omniq.calibrate.data import DataSpec
from omniq.calibrate.endtoend import EndToEnd, divergence
from omniq.calibrate.method import METHODS
from omniq.calibrate.methods.gptq import inverse_factor
from omniq.calibrate.run import QuantizedBlock, Settings, embed, run
from omniq.calibrate.stats import Moments
from omniq.calibrate.telling import met, troubles
from omniq.calibrate.trouble import Trouble
from omniq.calibrate.watched import empty, flat
from omniq.errors import ModelError
from omniq.eval.perplexity import perplexity
from omniq.events import BlockDone, Notice
from omniq.formats.base import FORMATS
from omniq.grid import encode, minmax_grid
from omniq.pipeline import quantize
from omniq.progress import block_line
from omniq.recipe import Recipe
from omniq.reporting.folder import read_record
from omniq.reporting.page import html
from omniq.reporting.record import record_from
from omniq.spec import LinearSpec, QuantSpec

pytestmark = pytest.mark.usefixtures("own_cache")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "numerics.md"
GROUP, SCHEME = 16, "W3A16g16"
HALF = torch.float16


def first_block(
    preset: str,
    change: Callable[[nn.Module], None] = lambda dense: None,
    ids: Tensor | None = None,
    scheme: str = SCHEME,
    storage: torch.dtype = HALF,
    **options: object,
) -> QuantizedBlock:
    """The first block of a changed tiny Llama on ids (B, T), with scales and vectors stored as `storage`."""
    tiny = Tiny("llama", scheme)
    with torch.no_grad():
        change(tiny.dense)
    subject, settings = replace(tiny.subject, storage=storage, floats=storage), Settings(batch=2)
    method = METHODS[preset](**{**QUICK[preset], **options})
    if not method.needs_data:
        return next(run(subject, method, settings, None))
    calls, streams = embed(subject, tokens(4, 24) if ids is None else ids, settings)
    return next(run(subject, method, settings, calls, 0, streams))


def finite(block: QuantizedBlock) -> bool:
    """Whether all that is stored and handed on is numbers."""
    found = [q.dequantize() for _, q, _ in block] + [value.float() for value in block.floats.values()]
    found += [block.streams.quantized] if block.streams else []
    return all(bool(torch.isfinite(one).all()) for one in found)


# What is carried out, and counted -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """change: done to the model. counts: what a preset's trouble then says, whichever it is. ids: to calibrate on."""

    change: Callable[[nn.Module], None] = lambda dense: None
    counts: Callable[[Trouble], bool] = lambda trouble: True
    ids: Tensor | None = None


def zero_groups(dense: nn.Module) -> None:
    dense.model.layers[0].mlp.up_proj.weight[:6, :GROUP] = 0


def zero_rows(dense: nn.Module) -> None:
    dense.model.layers[0].self_attn.q_proj.weight[:7] = 0
    dense.model.layers[0].self_attn.o_proj.weight.zero_()


def constant_rows(dense: nn.Module) -> None:
    dense.model.layers[0].mlp.up_proj.weight[3:6] = 0.25


def outlier(dense: nn.Module) -> None:
    dense.model.layers[0].mlp.up_proj.weight[3, 5] = 1e4


def subnormal(dense: nn.Module) -> None:
    dense.model.layers[0].mlp.up_proj.weight[:5] *= 1e-41


def vanishing(dense: nn.Module) -> None:
    dense.model.layers[0].mlp.up_proj.weight[:5] *= 1e-8


def dead_channels(dense: nn.Module) -> None:
    dense.model.layers[0].input_layernorm.weight[:5] = 0


def dead_norm(dense: nn.Module) -> None:
    dense.model.layers[0].input_layernorm.weight.zero_()
    dense.model.layers[0].post_attention_layernorm.weight.zero_()


def all_zero(dense: nn.Module) -> None:
    for param in (dense.model.embed_tokens.weight, *dense.model.layers[0].parameters()):
        param.zero_()


def massive(dense: nn.Module) -> None:
    dense.model.embed_tokens.weight[7] *= 1000


SUNK = (
    tokens(4, 24).index_fill(1, torch.tensor([0]), 7).where(torch.arange(24) == 0, tokens(4, 24).clamp(min=8))
)  # the loud token comes first, and nowhere else
HIDDEN, INNER = 64, 96
GROUPS = (4 * HIDDEN * HIDDEN - 2 * 32 * HIDDEN + 3 * HIDDEN * INNER) // GROUP
"""Groups of a block: q and o (64, 64), k and v (32, 64), gate and up (96, 64), down (64, 96)."""

CASES: dict[str, Case] = {
    "A group of weights is all zero": Case(zero_groups, lambda one: one.zero_groups == 6),
    "A row, or a whole matrix, is all zero": Case(
        zero_rows, lambda one: one.zero_groups == (7 + HIDDEN) * HIDDEN // GROUP
    ),
    "A group, or a row, is one number": Case(
        constant_rows, lambda one: (one.constant_groups, one.zero_groups) == (3 * HIDDEN // GROUP, 0)
    ),
    "One weight of a group is far larger than the others": Case(outlier, lambda one: one.lost_groups == 0),
    "Weights are subnormal": Case(subnormal, lambda one: one.lost_groups == 5 * HIDDEN // GROUP),
    "A scale is too small for its dtype": Case(vanishing, lambda one: one.lost_groups == 5 * HIDDEN // GROUP),
    "Input channels carry nothing": Case(dead_channels, lambda one: (one.damped, one.uncompensated) == ((), ())),
    "A norm gives nothing but zeros": Case(dead_norm, lambda one: (one.damped, one.uncompensated) == ((), ())),
    "All weights and all hidden states are zero": Case(
        all_zero, lambda one: one.zero_groups == GROUPS and one.largest in (0.0, None)
    ),
    "Tokens are a thousand times as large as the others": Case(massive, ids=SUNK),
    "All tokens are the same": Case(ids=torch.full((4, 24), 9)),
    "There is one sample": Case(ids=tokens(1, 24)),
    "Samples are one token long": Case(ids=tokens(4, 1)),
    "Fewer tokens than inputs": Case(ids=tokens(1, 70), counts=lambda one: len(one.scarce) in (0, 1)),
}


@pytest.mark.parametrize("preset", list(QUICK))
@pytest.mark.parametrize("name", list(CASES))
def test_a_case_is_carried_out_with_numbers_and_counted_by_every_preset(name: str, preset: str) -> None:
    case = CASES[name]
    block = first_block(preset, case.change, case.ids)
    assert finite(block)
    found = block.trace.trouble
    assert case.counts(found), found
    assert (found.largest is None) == (preset == "rtn")
    assert block.trace.skipped_steps == 0


def test_every_preset_is_among_the_quick_ones() -> None:
    assert set(QUICK) == set(METHODS)


@pytest.mark.parametrize("preset", list(QUICK))
@pytest.mark.parametrize("ids", [SUNK, torch.full((4, 24), 9), tokens(1, 1)], ids=["sinks", "same", "one"])
def test_quantised_activations_take_odd_tokens_too(ids: Tensor, preset: str) -> None:
    assert finite(first_block(preset, massive, ids, "W4A4"))


@pytest.mark.parametrize("preset", ["default", "fast", "best"])
def test_massive_tokens_are_left_out_of_the_loss_and_counted(preset: str) -> None:
    assert first_block(preset, massive, SUNK).trace.trouble.sinks == len(SUNK)
    assert first_block("omniquant", massive, SUNK).trace.trouble.sinks == 0  # the paper's recipe counts them
    assert first_block("omniquant", massive, SUNK, skip_sinks=True).trace.trouble.sinks == len(SUNK)


def test_linears_that_fewer_tokens_than_inputs_reach_are_named() -> None:
    assert first_block("gptq", ids=tokens(1, 70)).trace.trouble.scarce == ("mlp.down_proj",)  # of 96 inputs
    assert first_block("gptq", ids=tokens(1, 96)).trace.trouble.scarce == ()
    assert len(first_block("gptq", ids=tokens(1, 63)).trace.trouble.scarce) == 7


def test_the_largest_hidden_state_is_that_of_the_quantised_stream() -> None:
    block = first_block("gptq")
    assert block.trace.trouble.largest == float(block.streams.quantized.abs().max())


# What is refused ------------------------------------------------------------------------------------------------------


def poisoned(name: str, value: float) -> Callable[[nn.Module], None]:
    """Puts a value into one place of a parameter."""

    def change(dense: nn.Module) -> None:
        dense.get_parameter(name).data.view(-1)[5] = value

    return change


def scaled(name: str, factor: float) -> Callable[[nn.Module], None]:
    """Multiplies a parameter."""
    return lambda dense: dense.get_parameter(name).data.mul_(factor)


UP, DOWN, NORM = (f"model.layers.0.{name}.weight" for name in ("mlp.up_proj", "mlp.down_proj", "input_layernorm"))
NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, list[tuple[Callable[[nn.Module], None], str, torch.dtype]]] = {
    "NaN or infinity in a weight or a norm of a block": [
        (poisoned(UP, NAN), r"layers\.0\.mlp\.up_proj\.weight has NaN", HALF),
        (poisoned(UP, INF), r"layers\.0\.mlp\.up_proj\.weight has NaN or inf", HALF),
        (poisoned(NORM, NAN), r"layers\.0\.input_layernorm\.weight has NaN", HALF),
    ],
    "A scale is too large for its dtype": [
        (scaled(UP, 1e7), r"model\.layers\.0: a weight .* scales beyond torch\.float16; .*bfloat16", HALF),
    ],
}
WITH_DATA = {
    "NaN or infinity in the embedding": [
        (poisoned("model.embed_tokens.weight", INF), r"embed_tokens\.weight has NaN or infinite", HALF),
    ],
    "A block computes NaN or infinity": [
        (scaled(DOWN, 1e38), r"layers\.0 of the original model computes NaN or infinite", torch.float32),
    ],
    "Hidden states are too large to be squared": [
        (scaled(DOWN, 1e25), r"layers\.0 of the original .* as large as .*e\+\d\d .* squares", torch.float32),
    ],
}


@pytest.mark.parametrize(
    ("name", "preset"),
    [(name, preset) for name in REFUSED for preset in QUICK]
    + [(name, preset) for name in WITH_DATA for preset in QUICK if METHODS[preset].needs_data],
)
def test_what_is_no_number_or_fits_no_dtype_is_refused_by_name(name: str, preset: str) -> None:
    for change, words, storage in {**REFUSED, **WITH_DATA}[name]:
        with pytest.raises(ModelError, match=words):
            first_block(preset, change, storage=storage)


@pytest.mark.parametrize("preset", ["rtn", "gptq"])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"])
def test_a_head_or_a_last_norm_that_is_no_number_is_refused_by_name(name: str, preset: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, poisoned(name, NAN), torch.float32)
    with pytest.raises(ModelError, match=f"{name}.*NaN"):
        quantize(str(folder), tmp_path / "out", recipe(tmp_path, preset))
    assert not (tmp_path / "out").exists()


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "scheme", "options"),
    [
        ("omniquant", "W4A4", {"epochs": 2, "let_lr": 1e30}),
        ("omniquant", SCHEME, {"epochs": 2, "clip": "step", "lwc_lr": 1e30}),
        ("default", SCHEME, {"steps": 4, "range_lr": 1e30}),
        ("best", SCHEME, {"steps": 4, "range_lr": 1e30, "scaling": 0}),
    ],
)
def test_a_loss_that_explodes_costs_steps_and_leaves_the_best_iterate(preset: str, scheme: str, options: dict) -> None:
    exploded = first_block(preset, scheme=scheme, **options)
    assert exploded.trace.skipped_steps > 0
    assert exploded.trace.trouble.kept_start
    assert exploded.trace.after == exploded.trace.before
    assert finite(exploded)


def test_training_that_finds_something_better_does_not_keep_its_start() -> None:
    assert not first_block("omniquant", scheme="W2A16", epochs=4, lwc_lr=0.1).trace.trouble.kept_start
    assert not first_block("omniquant", epochs=0).trace.trouble.kept_start


def test_steps_end_to_end_that_are_not_finite_are_skipped_and_counted() -> None:
    _, made = trainer()
    with made:
        tuned = made.tuned(EndToEnd(2, 1, 1e30, 1e30), lambda *_: None)
    assert tuned.skipped > 0
    assert tuned.kl_after == tuned.kl_before
    assert all(bool((factor == 1).all()) for block in tuned.blocks for factor in block.factors.values())


def test_the_divergence_takes_tokens_that_the_original_excludes() -> None:
    wanted, logits = torch.randn(2, 3, 5).unbind()
    wanted[:, 4] = -torch.inf
    logits.requires_grad_()
    loss = divergence(wanted, logits)
    loss.backward()
    p, q = wanted[:, :4].double().softmax(-1), logits.detach().double().softmax(-1)[:, :4]
    assert float(loss.detach()) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_a_perplexity_is_a_number_that_json_can_hold() -> None:
    assert json.loads(json.dumps(perplexity(1e6), allow_nan=False)) > 1e300


# Half precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [name for name in QUICK if METHODS[name].needs_data])
def test_hidden_states_beyond_float16_are_calibrated_in_autocast_and_their_size_kept(preset: str) -> None:
    tiny = Tiny("llama", SCHEME)
    with torch.no_grad():
        scaled(DOWN, 1e6)(tiny.dense)
    settings = Settings(batch=2, autocast=torch.bfloat16)
    calls, streams = embed(tiny.subject, tokens(4, 24), settings)
    block = next(run(tiny.subject, METHODS[preset](**QUICK[preset]), settings, calls, 0, streams))
    assert finite(block)
    assert block.trace.trouble.largest > 65504
    assert block.error < 0.5


# Second moments -------------------------------------------------------------------------------------------------------


def test_damping_grows_until_a_factor_exists_and_says_so() -> None:
    gram = torch.diag(torch.tensor([4.0, 4.0, 4.0, -0.5]))  # mean 2.875: 0.01 and 0.1 of it are too little
    factor, taken = inverse_factor(gram, 0.01)
    assert taken == 1.0
    expected = torch.linalg.inv(gram.double() + 2.875 * torch.eye(4))
    torch.testing.assert_close((factor.T @ factor).double(), expected, rtol=1e-5, atol=1e-6)
    assert inverse_factor(torch.eye(4), 0.01)[1] == 0.01


def test_moments_without_any_factor_leave_rounding_to_nearest_and_say_so() -> None:
    for gram in (torch.full((4, 4), NAN), torch.diag(torch.tensor([INF, 1.0, 1.0, 1.0]))):
        factor, taken = inverse_factor(gram, 0.01)
        assert taken == INF
        assert torch.equal(factor, torch.eye(4))


@pytest.mark.parametrize("preset", [name for name in QUICK if name in ("gptq", "fast", "default", "best")])
@pytest.mark.parametrize("kind", ["damped", "uncompensated"])
def test_linears_whose_damping_grew_or_did_not_suffice_are_named(
    kind: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Moments.gram

    def spoiled(self: Moments, k: int) -> Tensor:
        gram = whole(self, k).clone()
        wrong = -0.05 * gram.diagonal().mean() if kind == "damped" else NAN
        gram[0, :], gram[:, 0] = 0, 0
        gram[0, 0] = wrong
        return gram

    monkeypatch.setattr(Moments, "gram", spoiled)
    block = first_block(preset, scaling=0) if preset != "gptq" else first_block(preset)
    found = block.trace.trouble
    assert len(getattr(found, kind)) == 7
    assert not getattr(found, "uncompensated" if kind == "damped" else "damped")
    assert finite(block)


# Groups and formats ---------------------------------------------------------------------------------------------------


def test_groups_are_told_apart_by_what_they_hold() -> None:
    weight = torch.tensor([[0.0, 0.0, 2.0, 2.0, -3.0, 5.0], [1.0, 1.0, 0.0, -0.0, 1e-9, 2e-9]])
    zero, constant = flat(weight, QuantSpec(4, 2))
    assert zero.tolist() == [[True, False, False], [False, True, False]]
    assert constant.tolist() == [[False, True, False], [True, False, False]]
    spec = QuantSpec(4, 2)
    q = encode(weight, *minmax_grid(weight, spec, HALF), spec, HALF)
    assert empty(q).tolist() == [[True, False, False], [False, True, True]]


def odd_weight(n: int = 64, k: int = 64) -> Tensor:
    """A weight (N, K) with zero, constant, subnormal and vanishing groups, and an outlier."""
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    weight[1] = -0.25
    weight[2] = 3e4
    weight[3, 7] = 1e4
    weight[4] *= 1e-41
    weight[5] *= 1e-8
    return weight


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("scheme", ["W4A16g32", "W4A16g32-asym", "W2A16", "W3A16-asym", "W8A16g32"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_format_stores_odd_groups_bit_for_bit(name: str, scheme: str, dtype: torch.dtype) -> None:
    form, spec, weight = FORMATS[name], LinearSpec.parse(scheme), odd_weight()
    if reason := form.refuse(spec, tuple(weight.shape)):
        pytest.skip(reason)
    storage = form.scale_dtype(dtype)
    q = encode(weight, *minmax_grid(weight, spec.weight, storage), spec.weight, storage)
    back = form.unpack(form.pack(q), spec, tuple(weight.shape))
    assert torch.equal(back.dequantize(), q.dequantize())
    assert torch.isfinite(back.dequantize()).all()
    assert not back.dequantize()[0].any()
    steps = q.scales.float().abs().amax(1)
    assert ((back.dequantize() - weight).abs().amax(1) <= steps * 1.01).all()


# What the user is told ------------------------------------------------------------------------------------------------


def recipe(place: Path, preset: str, **options: object) -> Recipe:
    """A quick recipe on a text in `place`."""
    data = DataSpec(str(save_text(place / "text.txt")), 4, 24)
    return Recipe(LinearSpec.parse(SCHEME), preset, {**QUICK[preset], **options}, data)


def saved(place: Path, change: Callable[[nn.Module], None], dtype: torch.dtype) -> Path:
    """The folder of a changed tiny Llama."""
    _, model = tiny_model("llama")
    with torch.no_grad():
        change(model)
    model.to(dtype).save_pretrained(place / "model")
    tiny_tokenizer().save_pretrained(place / "model")
    return place / "model"


def odd_model(dense: nn.Module) -> None:
    """Zero and constant groups, groups that float16 scales lose, and hidden states beyond float16."""
    zero_groups(dense)
    dense.model.layers[0].mlp.up_proj.weight[:5] *= 3e-7  # float16 holds them, but no quarter of them
    dense.model.layers[0].mlp.gate_proj.weight[:2] = 0.5
    dense.model.layers[0].mlp.down_proj.weight *= 3e4


def test_what_was_met_is_printed_kept_in_the_report_and_shown_on_its_page(tmp_path: Path) -> None:
    events: list = []
    folder = saved(tmp_path, odd_model, HALF)
    quantize(str(folder), tmp_path / "out", recipe(tmp_path, "gptq"), on_event=events.append)
    record, page = read_record(tmp_path / "out"), html(read_record(tmp_path / "out"))
    found = record.blocks[0].trouble
    lost = 5 * HIDDEN // GROUP - 5  # of the five rows that vanish, the first group is zero already
    assert (found.zero_groups, found.constant_groups, found.lost_groups) == (6, 2 * HIDDEN // GROUP, lost)
    line = block_line(next(event for event in events if isinstance(event, BlockDone)), 1.0)
    assert f"6 groups all zero, 8 groups of one value, {lost} groups rounded to zero" in line
    told = [event.text for event in events if isinstance(event, Notice)]
    for words in (f"{lost} groups of weights were rounded to zeros alone", "beyond what float16 holds"):
        assert any(words in sentence for sentence in told)
        assert any(words in sentence for sentence in record.notices)
        assert words in page
    for head in ("Groups all zero", "Groups of one value", "Groups rounded to zero", "Largest hidden state"):
        assert f">{head}<" in page
    assert ">Kept its start<" not in page


def test_a_model_of_zeros_is_quantised_and_read_back(tmp_path: Path) -> None:
    def change(dense: nn.Module) -> None:
        for param in dense.model.parameters():
            param.zero_()

    quantize(str(saved(tmp_path, change, HALF)), tmp_path / "out", recipe(tmp_path, "gptq"))
    assert all(block.trouble.largest == 0 for block in read_record(tmp_path / "out").blocks)


def test_a_report_that_counted_less_is_still_read_and_one_of_the_future_is_not(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    quantize(str(folder), tmp_path / "out", recipe(tmp_path, "rtn"))
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values.pop("layout") == 2
    whole = record_from({"layout": 2, **values}, "report.json")
    del values["tuned_skipped"]
    for block in values["blocks"]:
        del block["trouble"]
    old = record_from({"layout": 1, **values}, "report.json")
    assert [block.trouble for block in old.blocks] == [None, None]
    assert replace(old, blocks=whole.blocks) == whole
    assert "Groups all zero" not in html(old)
    with pytest.raises(ModelError, match="layout 3"):
        record_from({"layout": 3, **values}, "report.json")


def test_every_kind_of_trouble_has_its_words() -> None:
    ill = Trouble(1, 2, 3, ("a",), ("b", "c"), ("d",), 4, True, 1e6)
    assert met(ill) == (
        "1 groups all zero",
        "2 groups of one value",
        "3 groups rounded to zero",
        "1 linears with few tokens",
        "2 linears damped more",
        "1 linears not compensated",
        "training kept its start",
    )
    assert met(Trouble(largest=1.0)) == ()
    said = troubles({0: ill, 3: ill, 4: Trouble()}, half=True)
    assert [int(sentence.split()[0]) for sentence in said[:4]] == [6, 2, 4, 2]
    assert all(sentence.endswith("(blocks 0, 3)") for sentence in said)
    assert "1e+06" in said[4]
    assert len(troubles({0: ill}, half=False)) == 4
    assert troubles({0: Trouble(largest=1e6)}, half=False) == []


# The page -------------------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "NaN or infinity in the last norm or the output head": (
        test_a_head_or_a_last_norm_that_is_no_number_is_refused_by_name
    ),
    "The loss of a block explodes": test_a_loss_that_explodes_costs_steps_and_leaves_the_best_iterate,
    "The loss explodes while scales are tuned end to end": (
        test_steps_end_to_end_that_are_not_finite_are_skipped_and_counted
    ),
    "Hidden states exceed 65504, the largest float16": (
        test_hidden_states_beyond_float16_are_calibrated_in_autocast_and_their_size_kept
    ),
    "Second moments are singular beyond the damping": (test_linears_whose_damping_grew_or_did_not_suffice_are_named),
    "The model excludes tokens (logits of minus infinity)": (
        test_the_divergence_takes_tokens_that_the_original_excludes
    ),
    "A perplexity overflows": test_a_perplexity_is_a_number_that_json_can_hold,
    "No token reaches an expert": None,
}
"""Rows of the page proved by a test of their own; None: in test_calibrate.py."""


def test_every_row_of_the_page_is_proved_here_and_every_proof_is_on_the_page() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [row for row in rows if row not in ("Case", "---")] == sorted(
        {**CASES, **REFUSED, **WITH_DATA, **ELSEWHERE}, key=rows.index
    )
