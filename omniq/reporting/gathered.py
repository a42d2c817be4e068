"""block_records: what a run's work folder knows of every block, whichever session made it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from omniq.calibrate.fidelity import Fidelity
from omniq.calibrate.trouble import Trouble
from omniq.reporting.record import BlockRecord, LinearRecord, trouble_from
from omniq.work import Work

MEASURED = tuple(Fidelity.__dataclass_fields__)


def block_records(work: Work, blocks: int, shapes: Mapping[str, tuple[int, int]]) -> tuple[BlockRecord, ...]:
    """One record a block. shapes: (N, K) of every linear by its full name."""
    return tuple(block_record(index, work.facts(index), shapes) for index in range(blocks))


def block_record(index: int, facts: Mapping[str, str], shapes: Mapping[str, tuple[int, int]]) -> BlockRecord:
    """The record of one block from the facts kept with it."""
    found = json.loads(facts["fidelity"])
    linears = tuple(
        LinearRecord(name, scheme, shapes[name], **{key: finite(found.get(name, {}).get(key)) for key in MEASURED})
        for name, scheme in json.loads(facts["specs"]).items()
    )
    before, after, error = (number(facts[key]) for key in ("loss_before", "loss_after", "error"))
    return BlockRecord(
        index=index,
        seconds=float(facts["seconds"]),
        loss_before=before,
        loss_after=after,
        error=error,
        skipped_steps=int(facts["skipped_steps"]),
        unreached=tuple(json.loads(facts["unreached"])),
        peak_memory=int(facts["peak_memory"]),
        linears=linears,
        trouble=trouble(facts),
    )


def trouble(facts: Mapping[str, str]) -> Trouble | None:
    """What was out of the ordinary in a block, from the facts kept with it; None where they do not say."""
    values = json.loads(facts.get("trouble", "null"))
    return values and trouble_from({**values, "largest": finite(values["largest"])})


def tuning(work: Work) -> tuple[float, float] | None:
    """KL before and after tuning end to end, None where nothing was tuned."""
    facts = work.tuned_facts()
    return (float(facts["kl_before"]), float(facts["kl_after"])) if facts else None


def tuning_skipped(work: Work) -> int:
    """Steps of tuning end to end that were left out, because their gradient was not finite."""
    return int(work.tuned_facts().get("skipped", 0))


def number(text: str) -> float | None:
    """A number as facts keep it; None for 'None' and for what is not finite, of which JSON has no word."""
    return None if text == "None" else finite(float(text))


def finite(value: float | None) -> float | None:
    """The value, None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None
