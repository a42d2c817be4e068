"""The presets of an audit: how much of the data, which evaluators, how long the answers."""

from __future__ import annotations

from omniq.audit.base import Settings
from omniq.errors import UsageError

QUICK = Settings(
    name="quick",
    items={"qa": 20, "cloze": 16, "reverse": 16, "choice": 20, "true_false": 16, "completion": 8, "document": 32},
    evaluators=("qa_gen", "qa_ll", "mcq", "verbmem", "knowmem", "overforget", "privacy", "ks", "probe", "lens",
                "weights", "general"),
    studied={"qa": 240},
    answer_tokens=40,
    text_tokens=128,
    probe_layers=8,
)  # fmt: skip

FULL = Settings(
    name="full",
    items={},
    evaluators=("qa_gen", "qa_ll", "paraphrase", "mcq", "verbmem", "knowmem", "overforget", "privacy", "ks", "probe",
                "lens", "patch", "icl", "relearn", "weights", "general"),
)  # fmt: skip

PRESETS = {settings.name: settings for settings in (QUICK, FULL)}


def preset(name: str) -> Settings:
    """The settings of that name."""
    if name not in PRESETS:
        raise UsageError(f"preset is {name!r}; an audit has {' and '.join(PRESETS)}")
    return PRESETS[name]
