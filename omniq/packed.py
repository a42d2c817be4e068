"""packed: a finished block as it is kept: named tensors of the checkpoint's format, and the facts of how it came."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from omniq.calibrate.run import QuantizedBlock
from omniq.digests import tensor_digest, weight_digest
from omniq.formats.base import Format


def packed(
    block: QuantizedBlock, form: Format, stored_name: Callable[[str], str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by their name in the checkpoint, and the facts to keep: hashes of what was calibrated, and losses.

    stored_name: a parameter's name -> its name in the checkpoint.
    """
    tensors, digests = {}, {}
    for name, q, _ in block:
        stored = stored_name(f"{name}.weight").removesuffix(".weight")
        tensors |= {f"{stored}.{leaf}": tensor for leaf, tensor in form.pack(q).items()}
        digests[name] = weight_digest(q)
    for name, tensor in block.floats.items():
        tensors[stored_name(name)] = tensor
        digests[stored_name(name)] = tensor_digest(tensor)
    facts = {
        "digests": json.dumps(digests),
        "specs": json.dumps({name: str(spec) for name, _, spec in block}),
        "error": str(block.error),
        "seconds": f"{block.seconds:.3f}",
        "loss_before": str(block.trace.before),
        "loss_after": str(block.trace.after),
        "skipped_steps": str(block.trace.skipped_steps),
        "unreached": json.dumps(block.trace.unreached),
        "trouble": json.dumps(asdict(block.trace.trouble)),
        "fidelity": json.dumps({name: asdict(one) for name, one in block.fidelity.items()}),
    }
    return tensors, facts
