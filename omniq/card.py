"""The model card of a quantised checkpoint, made from the record of its run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omniq.eval.compare import Comparison
from omniq.howto.loading import loads, runtime_of, snippets
from omniq.reporting.record import Record
from omniq.spec import LinearSpec

FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
SECTION = re.compile(r"^## Quality\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag", "datasets")
"""What the original's own card says and what goes for its quantised form too."""

CARD = """---
{front}---
# {base}, quantised to {scheme}

{bits:.2f} bits per quantised weight, scales included{tables}. {allocation}Made with omniq {version}, preset `{preset}`;
`report.html` in this folder tells how each block and layer came out.

## Load
{snippets}
{loaders}

## Quality
{quality}

## Recipe
```bash
{command}
```
Calibration data: {data}.
```json
{recipe}
```
{licence}"""

SHAPED = (
    "The codes were fitted to what the model does on that text: on text unlike it, another language or code, expect "
    "more loss, and make it again with text like yours"
)


def original_facts(folder: Path) -> dict[str, Any]:
    """What the card of the model in `folder` says of licence, language and use, and its tags; nothing without one."""
    try:
        found = front_matter((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    tags = found.get("tags") if isinstance(found.get("tags"), list) else []
    facts = {key: found[key] for key in KEPT if said(found.get(key))}
    own = [tag for tag in tags if isinstance(tag, str) and ":" not in tag]
    return facts | ({"tags": own} if own else {})


def said(value: Any) -> bool:
    """Whether a value of a card is a text, or texts."""
    return bool(value) and all(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))


def front_matter(card: str) -> dict[str, Any]:
    """The values at the head of a card; nothing where there are none, or they are damaged."""
    found = FRONT.match(card.replace("\r\n", "\n"))
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def metadata(record: Record) -> dict[str, Any]:
    """The front matter as the hub reads it."""
    bits = sorted({LinearSpec.parse(linear.scheme).weight.bits for linear in record.linears})
    tags = [*record.card.get("tags", ()), "omniq", "quantized", record.format, *(f"{one}-bit" for one in bits)]
    origin = {"base_model": record.base, "base_model_relation": "quantized"} if record.from_hub else {}
    in_transformers = any(runtime_of(one) == "transformers" and loads(one) for one in record.loaders)
    return {
        **origin,
        "library_name": "transformers" if in_transformers else "omniq",
        "pipeline_tag": "text-generation",
        **{key: value for key, value in record.card.items() if key != "tags"},
        "tags": list(dict.fromkeys([*tags, record.scheme])),
        "quantization": {
            "scheme": record.scheme,
            "bits_per_weight": round(record.bits_per_weight, 4),
            "format": record.format,
            "preset": record.preset,
            "tool": f"omniq {record.versions['omniq']}",
        },
    }


def model_card(record: Record) -> str:
    """README.md: how to load the checkpoint, what was measured, how it was made and under which licence it stands."""
    return CARD.format(
        front=yaml.safe_dump(metadata(record), sort_keys=False, allow_unicode=True, width=10_000),
        base=record.base,
        scheme=record.scheme,
        bits=record.bits_per_weight,
        tables=f", embedding table and output head among them ({record.tables})" if record.tables else "",
        allocation=f"By measured sensitivity, {record.allocation}. " if record.allocation else "",
        version=record.versions["omniq"],
        preset=record.preset,
        snippets="".join(f"```{one.language}\n{one.code}\n```\n" for one in snippets(record.loaders)),
        loaders="\n".join(f"- {line}" for line in record.loaders),
        quality=recorded_quality(record),
        command=record.command,
        data=f"{record.data}. {SHAPED}" if record.data else "none (the preset looks at the weights alone)",
        recipe=json.dumps(record.recipe, indent=2),
        licence=licence(record),
    )


def licence(record: Record) -> str:
    """The licence of the original, which its quantised form keeps; that it is unknown where no card tells."""
    name = record.card.get("license_name") or record.card.get("license")
    if name is None:
        return "\n## Licence\nThat of the original, which the folder it was made from did not name.\n"
    link = record.card.get("license_link")
    return f"\n## Licence\n{name}, as the original{f': {link}' if link else ''}.\n"


def recorded_quality(record: Record) -> str:
    """What was measured, by the record of a run."""
    found = record.quality or {}
    names = Comparison.__dataclass_fields__
    whole = all(found.get(name) is not None for name in names)
    if found and not whole:
        return f"Perplexity {found['ppl']:.3f}, on {found.get('protocol')}."
    return quality(Comparison(**{name: found[name] for name in names}) if found else None, found.get("protocol"))


def with_quality(card: str, record: Record) -> str | None:
    """A card with the section on quality made anew, the rest as it is; None where it has no such section."""
    if SECTION.search(card) is None:
        return None
    return SECTION.sub(lambda _: f"## Quality\n{recorded_quality(record)}\n\n", card, count=1)


def quality(measured: Comparison | None, protocol: str | None) -> str:
    """A table of what was measured and the protocol, or the sentence that nothing was."""
    if measured is None:
        return "Not measured. `omniq eval PATH --against ORIGINAL --text FILE --record` measures it."
    return (
        "| | original | quantised |\n|---|---|---|\n"
        f"| perplexity | {measured.ppl_original:.3f} | {measured.ppl:.3f} |\n"
        f"| KL to the original, nats per token | 0 | {measured.kl:.4f} |\n"
        f"| same best next token | 1 | {measured.top1:.4f} |\n\n"
        f"Measured on {protocol}."
    )


def without_path(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values without where the calibration text lies on this machine: its file's name alone."""
    data = dict(values.get("data") or {})
    source = data.get("source")
    if isinstance(source, str) and Path(source).suffix in (".txt", ".jsonl", ".parquet"):
        data["source"] = Path(source).name
    return {**values, "data": data}
