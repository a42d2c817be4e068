"""recorded: what was measured of a checkpoint after it was made, put into its report, its card and its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniq.assemble import write_config
from omniq.card import with_quality
from omniq.reporting.folder import PAGE, RECORD, read_record, write_report
from omniq.shards import write_text
from omniq.source import config_values

FIGURES = ("ppl_original", "ppl", "kl", "top1", "tokens", "protocol")


def recorded(folder: Path, figures: Mapping[str, Any]) -> list[str]:
    """Puts the figures in the place of those measured before; the names of the files that say so now.

    A card without a section on quality, as somebody may have rewritten it, is left alone.
    """
    quality = {key: figures.get(key) for key in FIGURES}
    record = read_record(folder).with_quality(quality)
    config, card = config_values(folder), folder / "README.md"
    block = config.get("omniq")
    write_config(folder, {**config, "omniq": {**(block if isinstance(block, dict) else {}), "quality": quality}})
    write_report(record, folder)
    told = ["config.json", RECORD, PAGE]
    text = with_quality(card.read_text(encoding="utf-8"), record) if card.is_file() else None
    if text is not None:
        write_text(card, text)
        told.append(card.name)
    return told
