"""What was made: the figures that a reader looks for first."""

from __future__ import annotations

from collections.abc import Iterator

from omniq.eval.size import human_bytes
from omniq.page.markup import Markup, section, tag
from omniq.page.words import duration, share
from omniq.reporting.record import Record


def made(record: Record) -> Markup:
    """Cards with one figure each."""
    cards = [
        tag("div", [tag("dt", name), tag("dd", [figure, tag("small", said) if said else ""])])
        for name, figure, said in figures(record)
    ]
    return section("made", "What was made", tag("dl", cards, class_="keys"))


def figures(record: Record) -> Iterator[tuple[str, str, str]]:
    """(name, figure, what else there is to say of it)."""
    yield "Scheme", record.scheme, f"layout {record.format}"
    yield "Preset", record.preset, record.data or "no calibration text"
    yield "Bits per quantised weight", f"{record.bits_per_weight:.2f}", "scales included"
    before, after = human_bytes(record.size_before), human_bytes(record.size_after)
    yield "Size", after, f"from {before}: {share(record.size_after / max(record.size_before, 1))} of it"
    if record.quality and record.quality.get("kl") is not None:
        yield "KL to the original", f"{record.quality['kl']:.4f}", "nats per token"
    if record.quality and record.quality.get("ppl") is not None:
        before = record.quality.get("ppl_original")
        yield "Perplexity", f"{record.quality['ppl']:.2f}", f"original: {before:.2f}" if before is not None else ""
    yield "Time", duration(record.seconds), spent(record)
    yield "Peak memory", human_bytes(record.peak_memory), device_memory(record)


def spent(record: Record) -> str:
    """How much of the time the blocks took; what is counted where the run was interrupted."""
    blocks = duration(sum(block.seconds for block in record.blocks))
    if record.resumed_at:
        return f"since it went on at block {record.resumed_at}; all blocks together {blocks}"
    return f"{blocks} of it in blocks"


def device_memory(record: Record) -> str:
    """The accelerator's peak, or on what the run ran."""
    if record.device_peak is None:
        return f"on {record.device}, {record.threads} thread{'s' * (record.threads != 1)}"
    return f"and {human_bytes(record.device_peak)} on {record.device}"
