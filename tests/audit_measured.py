"""Made-up measurements with given numbers, shared by the tests of tables and verdicts."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from omniq.audit.base import BEHAVIOUR, LATENT, MEMBERSHIP, WEIGHTS, Found, Measurement, Metric, Settings
from omniq.audit.result import Tested

SETTINGS = Settings(name="test", items={}, evaluators=(), resamples=1000)
METRICS = {
    "contains": Metric("contains", "", binary=True, family=BEHAVIOUR),
    "prob": Metric("prob", "", family=BEHAVIOUR),
    "tr_prob_mean": Metric("tr_prob_mean", "", family=BEHAVIOUR, chance=0.5),
    "mc_acc": Metric("mc_acc", "", binary=True, family=LATENT, chance=0.12),
    "probe_r2f": Metric("probe_r2f", "", binary=True, family=LATENT),
    "probe_f2f": Metric("probe_f2f", "", binary=True, family=LATENT),
    "relearn_v": Metric("relearn_v", "", binary=True, family=LATENT),
    "lens_best": Metric("lens_best", "", family=LATENT),
    "uds": Metric("uds", "", -1, family=LATENT, chance=1.0),
    "mia_mink40": Metric("mia_mink40", "", family=MEMBERSHIP, combine="auc", chance=0.5),
}
CONTROLLED = {"unl_q": "orig_q"}


def models_of(*roles: str, bits: int = 4) -> tuple[Tested, ...]:
    """One model of each role, named by it."""
    width = {"orig_q": bits, "unl_q": bits}
    return tuple(
        Tested(role, role, f"{role} model", role, bits=width.get(role, 16), control=CONTROLLED.get(role))
        for role in roles
    )


def shares(metric: str, split: str, rate: float, n: int = 240, **more: object) -> Measurement:
    """A measurement of n items whose mean is `rate`: 0 and 1 for binary metrics, spread around it for others."""
    kind = METRICS[metric]
    if kind.combine == "auc":
        return area(metric, split, rate)
    items = tuple(f"{split}-{i}" for i in range(n))
    # The items that are known come in one fixed order, so that a model that knows more knows what the other does.
    order = np.random.default_rng(1).permutation(n)
    values = (order < round(rate * n)).astype(float)
    if not kind.binary:
        values = np.clip(rate + 0.05 * np.cos(np.arange(n)), 0, 1)
        values += rate - values.mean()
    return Measurement(kind, split, items, values, **{"chance": kind.chance, **more})


def area(metric: str, split: str, rate: float, n: int = 60) -> Measurement:
    """Scores of two normal groups whose AUC is `rate`, on quantiles."""
    grid = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])
    apart = 2**0.5 * NormalDist().inv_cdf(min(max(rate, 0.001), 0.999))
    items = tuple(f"{split}-doc-{i}" for i in range(n))
    return Measurement(METRICS[metric], split, items, grid, reference=grid + apart, chance=0.5)


def weights(flips: float, projection: float, cosine: float) -> Found:
    """What the evaluator of that name finds, of all linears."""
    named = {"code_flips": flips, "projection": projection, "cosine": cosine}
    return [
        Measurement(Metric(name, "", 0, WEIGHTS, "single"), "", ("all linears",), np.array([value]))
        for name, value in named.items()
    ]
