"""What the run said, and what holds for runs of its kind."""

from __future__ import annotations

from omniq.page.markup import Markup, listed, paragraph, section, tag
from omniq.reporting.record import Record


def told(record: Record) -> Markup:
    """Every sentence that the run printed, skipped steps among them."""
    said = [paragraph(skipped(record))]
    if record.notices:
        said += [tag("h3", "Printed by the run"), listed(record.notices, "notices")]
    if record.notes:
        said += [tag("h3", "Good to know"), listed(record.notes, "notices")]
    return section("told", "Notices", *said)


def skipped(record: Record) -> str:
    """What became of steps whose loss was not finite."""
    if not record.skipped_steps:
        return "No training step was skipped. What was written was read back and computes what was calibrated."
    where = ", ".join(str(block.index) for block in record.blocks if block.skipped_steps)
    places = [f"blocks {where}"] if where else []
    places += [f"{record.tuned_skipped} end to end"] if record.tuned_skipped else []
    return (
        f"{record.skipped_steps} training steps were skipped, because their loss was not finite ({'; '.join(places)}). "
        "What was written was read back and computes what was calibrated."
    )
