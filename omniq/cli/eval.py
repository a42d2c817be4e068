"""omniq eval: perplexity, distance from the original, and size of a quantised checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniq.cli import options as o
from omniq.errors import DataError

if TYPE_CHECKING:
    from omniq.eval.windows import EvalSpec


def command(
    checkpoint: o.Checkpoint,
    text: o.Text = None,
    against: o.Against = None,
    windows: o.Windows = 0,
    length: o.WindowLength = 512,
    batch: o.Batch = 1,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    activations: o.Activations = "exact",
    embed_bits: o.EmbedBits = 16,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    as_json: o.Json = False,
) -> None:
    """Measure a quantised model: perplexity on a text, KL and top-1 agreement with the original, and size."""
    from omniq.cli.torch_options import device_named, dtype_named
    from omniq.eval.windows import EvalSpec

    if text is None:
        raise DataError(
            "omniq eval needs a text to measure on; give one with --text FILE, for example the WikiText-2 test split"
        )
    spec = EvalSpec(text, windows, length, batch)
    place = (device_named(device), dtype_named(dtype), activations, embed_bits)
    result = measured(checkpoint, spec, place, against, revision, trust_remote_code)
    show(checkpoint, result, as_json)


def measured(
    checkpoint: Path, spec: EvalSpec, place: tuple, against: str | None, revision: str | None, trust: bool
) -> dict[str, Any]:
    """Every figure by name; those that need the original only when `against` names it.

    place: device, dtype, how exact activations are, and the bits of the token table.
    """
    from omniq import hf, runtime
    from omniq.cli.progress import counting
    from omniq.eval.base import evaluate
    from omniq.eval.size import checkpoint_bytes
    from omniq.eval.windows import protocol, windows
    from omniq.source import checked_folder

    hf.quiet()
    tokenizer = hf.load_tokenizer(checked_folder(checkpoint), trust_remote_code=trust)
    taken = windows(spec, tokenizer)
    device, dtype, activations, embed_bits = place
    cache = hf.cache_folder()
    folder = hf.resolve(against, revision=revision, trust_remote_code=trust, work=cache) if against else None
    quantised = runtime.load(
        checkpoint, device, dtype, activations=activations, embed_bits=embed_bits, trust_remote_code=trust
    )
    original = None
    if folder:
        dense = hf.load_dense(folder, dtype or "auto", trust_remote_code=trust)
        original = runtime.forward_of(dense.to(device))
    with counting(len(taken), "window") as on_done:
        rows = evaluate(original, runtime.forward_of(quantised), taken, spec.batch, on_done)
    figures = {row.metric: row.value for row in rows}
    sizes = {"bytes": checkpoint_bytes(checkpoint), "bits_per_weight": bits_in(checkpoint)}
    return {**figures, "tokens": rows[0].n, "protocol": protocol(spec, taken, tokenizer), **sizes}


def bits_in(checkpoint: Path) -> float | None:
    """Bits per quantised weight as recorded in the checkpoint, None when another tool wrote it."""
    from omniq.source import config_values

    recorded = config_values(checkpoint).get("omniq")
    return recorded.get("bits_per_weight") if isinstance(recorded, dict) else None


def show(checkpoint: Path, result: dict[str, Any], as_json: bool) -> None:
    """The figures on standard output."""
    from omniq.cli.quantize import quality_pairs
    from omniq.cli.render import print_json, print_pairs
    from omniq.eval.size import human_bytes

    if as_json:
        return print_json({"checkpoint": str(checkpoint), **result})
    quality = quality_pairs(*(result.get(key) for key in ("ppl_original", "ppl", "kl", "top1")), result["protocol"])
    bits = "" if result["bits_per_weight"] is None else f", {result['bits_per_weight']:.2f} bits per quantised weight"
    print_pairs(str(checkpoint), [*quality, ("size", human_bytes(result["bytes"]) + bits)])
