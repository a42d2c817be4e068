"""What a finished block has to tell the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from omniq.calibrate.run import QuantizedBlock
from omniq.calibrate.trouble import Trouble
from omniq.events import BlockDone
from omniq.memory import device_peak, peak_resident

HALF = 65504.0
"""The largest number of float16."""


def block_done(block: QuantizedBlock, blocks: int, device: torch.device) -> BlockDone:
    """The event that a block of `blocks` is finished, on `device`."""
    after = block.error if block.trace.after is None else block.trace.after
    return BlockDone(
        block.index, blocks, block.seconds, block.trace.before, after, block.trace.skipped_steps,
        met(block.trace.trouble), block.error, len(block.trace.unreached), peak_resident(), device_peak(device),
    )  # fmt: skip


def unreached(block: QuantizedBlock) -> str:
    """The sentence about linears that no calibration token reached."""
    names = block.trace.unreached
    return (
        f"block {block.index}: no calibration token reached {len(names)} linears ({names[0]}, ...), so they are "
        "rounded by their weights alone; more samples would reach them"
    )


def met(trouble: Trouble) -> tuple[str, ...]:
    """What of a block's trouble stands on its line, in a few words each."""
    counts = {
        "groups all zero": trouble.zero_groups,
        "groups of one value": trouble.constant_groups,
        "groups rounded to zero": trouble.lost_groups,
        "linears with few tokens": len(trouble.scarce),
        "linears damped more": len(trouble.damped),
        "linears not compensated": len(trouble.uncompensated),
    }
    words = [f"{count} {what}" for what, count in counts.items() if count]
    return (*words, "training kept its start") if trouble.kept_start else tuple(words)


def troubles(found: Mapping[int, Trouble], half: bool) -> list[str]:
    """Sentences on what the user should know of a run's blocks, by index. half: the model is stored in float16."""
    said: dict[str, Callable[[Trouble], int]] = {
        "groups of weights were rounded to zeros alone, being too small for the dtype of their scales": (
            lambda one: one.lost_groups
        ),
        "linears were reached by fewer tokens than they have inputs, so that what was measured of them is thin; more "
        "samples would help": lambda one: len(one.scarce),
        "linears took more damping than asked for, since second moments of their inputs were not positive definite": (
            lambda one: len(one.damped)
        ),
        "linears are rounded to nearest, since no damping made second moments of their inputs invertible": (
            lambda one: len(one.uncompensated)
        ),
    }
    lines = []
    for sentence, count in said.items():
        counts = {index: count(one) for index, one in found.items() if count(one)}
        if counts:
            lines.append(f"{sum(counts.values())} {sentence} ({blocks(list(counts))})")
    loud = [index for index, one in found.items() if half and (one.largest or 0) > HALF]
    if loud:
        most = max(found[index].largest for index in loud)
        lines.append(
            f"hidden states reach {most:.2g}, beyond what float16 holds, in which the model is stored; run it in "
            f"bfloat16 or float32 ({blocks(loud)})"
        )
    return lines


def blocks(indices: list[int]) -> str:
    """'block 3', or 'blocks 0, 1, 4'."""
    return f"block{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"
