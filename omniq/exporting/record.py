"""What an exported folder says of itself: config.json with a record of the export, and the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from omniq import __version__
from omniq.card import original_facts, quality
from omniq.eval.compare import Comparison
from omniq.exporting.origin import Origin
from omniq.howto.loading import snippets
from omniq.shards import write_text

STALE = ("quantize_config.json", "quant_config.json", "quantization_config.json")
"""Where GPTQ tools, AWQ tools and auto-round repeat quantization_config."""

CARD = """---
{front}---
# {base}, {scheme}, as {target}

Exported by omniq {version} from {source}: {same}.

## Load
{snippets}
{loaders}

## Quality
{quality}
{scope}"""


def exported_config(
    origin: Origin, target: str, entry: Mapping[str, Any] | None, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """config.json of the export: the origin's with another `quantization_config`, or none.

    The `omniq` block stays, with a record added of each export on the way. dtype: what dense weights have become; the
    model must be computed in a dtype that holds them and its other tensors.
    """
    values = {key: value for key, value in origin.model.raw.items() if key != "quantization_config"}
    if entry is not None:
        values["quantization_config"] = entry
    elif dtype is not None:
        wide = str(torch.promote_types(dtype, origin.model.dtype)).removeprefix("torch.")
        values |= {key: wide for key in ("dtype", "torch_dtype") if key in values} or {"dtype": wide}
    kept = dict(values.pop("omniq", None) or {})
    record = {"from": origin.format, "to": target, "version": __version__}
    if dtype is not None:
        record["dtype"] = str(dtype).removeprefix("torch.")
    return {**values, "omniq": {**kept, "exports": [*kept.get("exports", ()), record]}}


def finish(result: Path, card: str) -> None:
    """Writes the card, and removes what was copied of another tool's own description of the old layout."""
    for name in STALE:
        (result / name).unlink(missing_ok=True)
    write_text(result / "README.md", card)


def schemes(origin: Origin) -> dict[str, int]:
    """How many linears have each scheme."""
    return dict(Counter(str(layer.spec) for layer in origin.layers))


def export_card(
    origin: Origin, target: str, loaders: tuple[str, ...], packed: bool, rounding: str | None = None
) -> str:
    """README.md of the export: how to load it, where it comes from and what was measured of it.

    loaders: one sentence a runtime. packed: it holds integers. rounding: what making dense
    weights did to them, a sentence.
    """
    block = origin.model.raw.get("omniq") or {}
    base = block.get("base_model") or origin.folder.resolve().name
    return CARD.format(
        front=yaml.safe_dump(front_matter(origin, target, base, packed), sort_keys=False, allow_unicode=True),
        base=base,
        scheme=" and ".join(schemes(origin)),
        target=target,
        version=__version__,
        source=origin.format,
        same="the same integers in another layout" if packed else f"the integers multiplied out ({rounding})",
        snippets="".join(f"```{one.language}\n{one.code}\n```\n" for one in snippets(loaders)),
        loaders="\n".join(f"- {line}" for line in loaders),
        quality=quality(*measured(block)),
        scope="" if packed else "Measured before the export, on the integers.\n" if block.get("quality") else "",
    )


def front_matter(origin: Origin, target: str, base: str, packed: bool) -> dict[str, Any]:
    """The values at the head of the card: licence, language and tags stay those of the origin's own card."""
    facts = original_facts(origin.folder)
    stale = {origin.format, "quantized", "dequantized"}
    own = [tag for tag in facts.pop("tags", ()) if tag not in stale]
    tags = [*own, "omniq", *(("quantized", target) if packed else ("dequantized",))]
    # Only a hub id has an owner; a local model was recorded by its folder's name.
    relation = {"base_model": base, "base_model_relation": "quantized"} if "/" in base else {}
    return {**relation, "library_name": "transformers", **facts, "tags": list(dict.fromkeys(tags))}


def measured(block: Mapping[str, Any]) -> tuple[Comparison | None, str | None]:
    """What was measured of the integers, by the record of the run that made them, and the protocol."""
    known = block.get("quality")
    if not isinstance(known, Mapping) or not isinstance(known.get("protocol"), str):
        return None, None
    names = [name for name in Comparison.__dataclass_fields__ if isinstance(known.get(name), (int, float))]
    if len(names) < len(Comparison.__dataclass_fields__):
        return None, None
    return Comparison(**{name: known[name] for name in names}), known["protocol"]
