"""What rounding leaves of a change of weights: planted changes, sums against plain formulas, refusals with a reason."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_text, save_tiny

import omniq.pipeline as pipeline
from omniq.audit.base import EVALUATORS, Context, Found, Measurement, Missing, Settings
from omniq.audit.evaluators.ks import observe as observe_ks
from omniq.audit.evaluators.weights import FRAMED, RANGES, observe
from omniq.audit.metrics.update import rounded
from omniq.calibrate.data import DataSpec
from omniq.grid import encode, minmax_grid
from omniq.knowledge.items import Item, Knowledge
from omniq.recipe import Recipe
from omniq.spec import LinearSpec, QuantSpec

BITS = [2, 4, 8]
SCHEME = "W4A16g16"
KNOWLEDGE = Knowledge("made up", (Item("a", "forget", question="?", answer="!"),))


def quantised(weight: torch.Tensor, bits: int, width: int = 16):
    """weight (N, K) rounded to nearest."""
    spec = QuantSpec(bits, width)
    return encode(weight, *minmax_grid(weight, spec, torch.float32), spec, torch.float32)


def pair(bits: int, size: float):
    """A weight (64, 128) and one changed at random by about `size` steps, both also rounded."""
    torch.manual_seed(0)
    before = torch.randn(64, 128)
    steps = quantised(before, bits).scales.abs().repeat_interleave(16, 1)
    after = before + size * steps * torch.randn_like(before)
    return before, after, quantised(before, bits), quantised(after, bits)


@pytest.mark.parametrize("bits", BITS)
def test_sums_are_those_of_plain_formulas(bits: int) -> None:
    before, after, old, new = pair(bits, 0.3)
    found = rounded(before, after, old, new)
    change, stored = (after - before).double(), (new.dequantize() - old.dequantize()).double()
    ratio = (change.abs() / old.scales.double().abs().repeat_interleave(16, 1)).numpy()
    assert found.code_flips == float((old.codes != new.codes).double().mean())
    assert found.projection == pytest.approx(float((stored * change).sum() / change.square().sum()), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(stored.flatten(), change.flatten(), dim=0)
    assert found.cosine == pytest.approx(float(cosine), rel=1e-5)
    assert found.below_half / found.weights == pytest.approx((ratio < 0.5).mean(), abs=1e-3)
    for share in (0.1, 0.5, 0.9):
        assert found.quantile(share) == pytest.approx(np.quantile(ratio, share), rel=0.02)
    shares = [found.share_between(low, high) for low, high in pairwise(RANGES)]
    assert sum(shares) == pytest.approx(1.0)
    counts = np.histogram(ratio, RANGES)[0] / ratio.size
    assert shares == pytest.approx(counts, abs=0.01)


def test_a_small_dense_change_is_buried_as_theory_says() -> None:
    before, after, old, new = pair(4, 0.05)
    found = rounded(before, after, old, new)
    # A change of e steps crosses a boundary with chance e: flips are mean |dW| / step, and their mean is the change.
    assert found.code_flips == pytest.approx(0.05 * (2 / np.pi) ** 0.5, rel=0.2)
    assert found.projection == pytest.approx(1.0, abs=0.35)
    assert found.cosine < 0.35
    assert found.apart == pytest.approx(0.25, abs=0.05)


def test_a_change_below_half_a_step_of_weights_on_the_grid_leaves_nothing() -> None:
    torch.manual_seed(0)
    snapped = quantised(torch.randn(32, 64), 4).dequantize()
    old = quantised(snapped, 4)
    largest = snapped.view(32, -1, 16).abs().amax(-1, keepdim=True)
    change = 0.45 * old.scales.abs().repeat_interleave(16, 1) * (torch.rand(32, 64) * 2 - 1)
    change[(snapped.view(32, -1, 16).abs() == largest).view(32, 64)] = 0
    found = rounded(snapped, snapped + change, old, quantised(snapped + change, 4))
    assert (found.flips, found.projection, found.cosine) == (0, 0.0, 0.0)
    assert found.below_half == found.weights


def test_the_sums_of_two_halves_are_those_of_the_whole() -> None:
    before, after, old, new = pair(4, 0.3)
    parts = [
        rounded(before[half], after[half], *(quantised(weight[half], 4) for weight in (before, after)))
        for half in (slice(0, 32), slice(32, 64))
    ]
    whole, both = rounded(before, after, old, new), parts[0] + parts[1]
    assert both.projection == pytest.approx(whole.projection)
    assert both.flips == whole.flips
    assert np.array_equal(both.ratios, whole.ratios)
    assert both.apart == max(part.apart for part in parts)


def changed(folder: Path, out: Path, size: float, layers: tuple[int, ...] = (0, 1)) -> Path:
    """A copy of a model whose linears in these layers changed by about `size` of their spread."""
    shutil.copytree(folder, out)
    tensors, rng = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight") and int(name.split(".")[2]) in layers:
            tensors[name] = tensor + size * tensor.std() * torch.randn(tensor.shape, generator=rng)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The original, an unlearned model, both rounded to nearest."""
    root = tmp_path_factory.mktemp("weights")
    original = save_tiny("llama", root / "orig_fp")
    unlearned = changed(original, root / "unl_fp", 0.02, layers=(1,))
    return {
        "orig_fp": original,
        "unl_fp": unlearned,
        "orig_q": made(original, root / "orig_q", SCHEME),
        "unl_q": made(unlearned, root / "unl_q", SCHEME),
    }


def made(model: Path, out: Path, scheme: str, preset: str = "rtn", **options: int) -> Path:
    """A quantised checkpoint, calibrated on a few short texts where the preset needs some."""
    text = out.with_suffix(".txt")
    save_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "cache_folder", lambda: out.with_suffix(".cache"))
        recipe = Recipe(LinearSpec.parse(scheme), preset, options, DataSpec(str(text), 4, 24))
        pipeline.quantize(str(model), out, recipe)
    return out


def context(
    folders: dict[str, Path], role: str = "unl_q", control: str | None = "orig_q", **measured: Found
) -> Context:
    """What an evaluator sees of an audit of these folders; nothing is loaded."""
    return Context(
        KNOWLEDGE, Settings("test", {}, ()), role, role, folders, None, None, print, control,
        {name: {"qa_ll": found} for name, found in measured.items()},
    )  # fmt: skip


def numbers(found: Found) -> dict[tuple[str, str, int | None], float]:
    """Value by metric, attribute and layer."""
    return {
        (one.metric.name, one.attribute, one.layer): float(one.values[0])
        for one in found
        if isinstance(one, Measurement)
    }


def reasons(found: Found) -> dict[str, str]:
    """Reason by metric."""
    return {one.metric: one.reason for one in found if isinstance(one, Missing)}


def test_layers_and_all_linears_are_measured(folders: dict[str, Path]) -> None:
    found = observe(None, context(folders))
    values = numbers(found)
    assert values["code_flips", "", 0] == 0.0
    assert values["code_flips", "", 1] > 0.01
    assert values["code_flips", "", None] == pytest.approx(values["code_flips", "", 1] / 2)
    assert values["step_ratio_median", "", 0] == 0.0 < values["step_ratio_median", "", 1]
    assert values["step_ratio_p90", "", 1] > values["step_ratio_median", "", 1]
    assert values["projection", "", None] == pytest.approx(values["projection", "", 1])
    assert ("cosine", "", 0) not in values
    assert 0 < values["cosine", "", None] < 1
    assert sum(value for (name, *_), value in values.items() if name == "step_share") == pytest.approx(1.0)
    assert {name for name, *_ in values} == {"code_flips", *(metric.name for metric in FRAMED)}
    assert not reasons(found)


def test_the_size_of_the_change_is_that_of_the_tensors(folders: dict[str, Path]) -> None:
    values = numbers(observe(None, context(folders, "unl_fp", None)))
    before, after = (load_file(folders[name] / "model.safetensors") for name in ("orig_fp", "unl_fp"))
    names = [name for name in before if name.endswith("_proj.weight") and ".layers.1." in name]
    change = sum(float((after[name] - before[name]).double().square().sum()) for name in names)
    size = sum(float(before[name].double().square().sum()) for name in names)
    assert values["update_ratio", "", 1] == pytest.approx((change / size) ** 0.5, rel=1e-5)
    assert values["update_ratio", "", 0] == 0.0


def test_after_a_folded_transformation_only_codes_are_compared(folders: dict[str, Path], tmp_path: Path) -> None:
    folded = {name: made(folders[base], tmp_path / name, SCHEME, "awq", grid=4) for name, base in PAIRS.items()}
    found = observe(None, context({**folders, **folded}))
    assert {name for name, *_ in numbers(found)} == {"code_flips"}
    assert set(reasons(found)) == {metric.name for metric in FRAMED}
    assert all("folded a transformation" in reason for reason in reasons(found).values())


PAIRS = {"orig_q": "orig_fp", "unl_q": "unl_fp"}


def test_error_feedback_is_no_transformation(folders: dict[str, Path], tmp_path: Path) -> None:
    fed = {name: made(folders[base], tmp_path / name, "W3A16g16", "gptq") for name, base in PAIRS.items()}
    assert not reasons(observe(None, context({**folders, **fed})))


def test_another_scheme_than_the_controls_is_refused_with_a_reason(folders: dict[str, Path], tmp_path: Path) -> None:
    other = made(folders["unl_fp"], tmp_path / "unl_q", "W8A16g16")
    found = observe(None, context({**folders, "unl_q": other}))
    assert not numbers(found)
    assert "is stored as" in reasons(found)["code_flips"]


def test_an_unlearned_model_that_is_the_original_has_no_direction_of_change(folders: dict[str, Path]) -> None:
    same = {**folders, "unl_fp": folders["orig_fp"], "unl_q": folders["orig_q"]}
    found = observe(None, context(same))
    assert numbers(found)["code_flips", "", None] == 0.0
    assert reasons(found)["cosine"] == "unlearning changed no weight"


def test_without_a_control_everything_is_missing(folders: dict[str, Path]) -> None:
    found = observe(None, context(folders, control=None))
    assert not numbers(found)
    assert "the original under the same quantiser" in reasons(found)["code_flips"]


def ratios(values: list[float]) -> Found:
    """What qa_ll would have found."""
    metric = next(one for one in EVALUATORS["qa_ll"].metrics if one.name == "tr_geometric")
    return [Measurement(metric, "forget", tuple(map(str, range(len(values)))), np.array(values))]


def test_forget_quality_compares_the_truth_ratios_of_two_models() -> None:
    stats = pytest.importorskip("scipy.stats")
    from omniq.audit.statistics import COMBINE

    rng = np.random.default_rng(0)
    own, never, control = (list(rng.random(20) + shift) for shift in (0.3, 0.0, 0.9))
    found = observe_ks(None, context({}, unl_q=ratios(own), never_fp=ratios(never), orig_q=ratios(control)))
    values = {one.metric.name: COMBINE[one.metric.combine].value(one.values, one.reference) for one in found}
    first, second = stats.ks_2samp(own, never), stats.ks_2samp(own, control)
    expected = {
        "ks": first.statistic,
        "ks_p": first.pvalue,
        "ks_control": second.statistic,
        "ks_control_p": second.pvalue,
    }
    assert values == pytest.approx(expected)


def test_forget_quality_is_missing_without_a_never_trained_model_or_its_ratios() -> None:
    found = observe_ks(None, context({}, "unl_fp", None, unl_fp=ratios([1.0])))
    assert set(reasons(found)) == {"ks", "ks_p"}
    assert "--never" in reasons(found)["ks"]
    found = observe_ks(None, context({}, "unl_fp", None, unl_fp=ratios([1.0]), never_fp=[]))
    assert reasons(found)["ks_p"] == "qa_ll gave no tr_geometric for never_fp"
