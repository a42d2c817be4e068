"""What a finished block has to tell the user."""

from __future__ import annotations

from omniq.calibrate.run import QuantizedBlock
from omniq.events import BlockDone


def block_done(block: QuantizedBlock, blocks: int) -> BlockDone:
    """The event that a block of `blocks` is finished."""
    after = block.error if block.trace.after is None else block.trace.after
    return BlockDone(block.index, blocks, block.seconds, block.trace.before, after, block.trace.skipped_steps)


def unreached(block: QuantizedBlock) -> str:
    """The sentence about linears that no calibration token reached."""
    names = block.trace.unreached
    return (
        f"block {block.index}: no calibration token reached {len(names)} linears ({names[0]}, ...), so they are "
        "rounded by their weights alone; more samples would reach them"
    )
