"""Gates: when a number says nothing, because the model has collapsed or because there was nothing to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omniq.audit.base import Found, Measurement
from omniq.audit.result import Tested
from omniq.audit.samples import Estimate

Measured = Mapping[str, Mapping[str, Found]]
"""What was found, by name of the model and of the evaluator."""

COLLAPSE = 0.5
"""A model that keeps less than this share of what the original does on text it should have kept has collapsed."""

DECISIVE = ((("qa_gen", "contains"), 0.05), (("qa_ll", "prob"), 0.05), (("qa_gen", "fluency"), 1.0))
"""The first of these that the original can do decides, with what it has to reach: answers right, probable, or at least
words in some variety (bits); a model that answers well in few words has not collapsed."""

KEPT = ("retain", "world")
"""The splits that unlearning and quantisation should leave alone; the first one measured decides."""


def collapsed(measured: Measured, models: Sequence[Tested]) -> dict[str, str]:
    """Names of the models that have collapsed -> by what number, in words."""
    original = next((model.name for model in models if model.role == "orig_fp"), None)
    found = {}
    for model in models:
        why = collapse_of(measured.get(model.name, {}), measured.get(original, {}))
        if model.name != original and why:
            found[model.name] = why
    return found


def collapse_of(own: Mapping[str, Found], original: Mapping[str, Found]) -> str:
    """By what number a model has collapsed against the original, '' where it has not."""
    for split in KEPT:
        for place, least in DECISIVE:
            whole, left = (mean_of(found, *place, split) for found in (original, own))
            if whole is None or left is None or whole < least:
                continue
            name = f"{place[0]}.{place[1]} on {split}"
            return f"collapsed: {name} is {left:.2f}, the original's {whole:.2f}" if left < COLLAPSE * whole else ""
    return ""


def mean_of(found: Mapping[str, Found], evaluator: str, metric: str, split: str) -> float | None:
    """The mean of a measurement over all attributes and layers, None where there is none."""
    wanted = (metric, split, "", -1)
    rows = found.get(evaluator, [])
    one = next((row for row in rows if isinstance(row, Measurement) and row.key == wanted), None)
    return None if one is None else float(one.values.mean())


def floored(original: Measurement, estimate: Estimate | None) -> bool:
    """Whether not even the original is above chance, so that nothing can be seen; a holdout is meant to be there."""
    sign, chance = original.metric.knowledge, original.chance
    if sign == 0 or chance is None or original.split == "holdout" or estimate is None or estimate.lo is None:
        return False
    return sign * ((estimate.lo if sign > 0 else estimate.hi) - chance) <= 0
