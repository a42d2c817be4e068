"""Run by torchrun: quantises a tiny model once for each case, as one of several processes.

torchrun --nproc-per-node 2 ranked.py FOLDER NAME ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from subjects import QUICK

from omniq import pipeline
from omniq.calibrate.data import DataSpec
from omniq.calibrate.ranks import ALONE, Ranks, launched
from omniq.events import BlockDone, Event, Listener, Notice
from omniq.recipe import Recipe
from omniq.spec import LinearSpec

TRAINED = {
    "omniquant": {"epochs": 3, "lwc_lr": 0.05},
    "default": {"scaling": 4, "compensate": False, "steps": 2, "rounding_lr": 0.1, "range_lr": 0.02, "final_epochs": 3},
}
"""Options with which training is worth something."""
CASES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    **{name: ("llama", "W4A16g16", {"preset": name}) for name in ("gptq", "awq", "fast")},
    **{name: ("llama", "W3A16g16", {"preset": name, "options": TRAINED[name]}) for name in TRAINED},
    "experts": ("qwen3_moe", "W3A16g16", {"preset": "default", "options": TRAINED["default"]}),
    "many steps": (
        "llama",
        "W3A16g16",
        {"preset": "default", "options": {**TRAINED["default"], "steps": 12, "final_batch": 4}},
    ),
    "steps of one": ("llama", "W3A16g16", {"preset": "default", "options": {**TRAINED["default"], "batch": 1}}),
    "experts, gptq": ("qwen3_moe", "W4A16g16", {"preset": "gptq"}),
    "transformations": ("llama", "W4A8g16", {"preset": "omniquant", "options": {"epochs": 1, "let": True}}),
    "activation clips": ("llama", "W4A4g16", {"preset": "gptq", "search_clips": True}),
    "mixed bits": ("llama", "W4A16g16", {"preset": "gptq", "avg_bits": 3.0}),
    "tables": ("llama", "W4A16g16", {"preset": "default", "embed_bits": 8}),
}
"""name -> architecture, scheme and fields of the recipe."""
STOPPED: dict[str, tuple[str, Callable[[Event], bool]]] = {
    "killed": ("gptq", lambda event: isinstance(event, BlockDone)),
    "killed when tuned": ("default", lambda event: isinstance(event, Notice) and event.text.startswith("end to end")),
}
"""name -> a case, and the event at which its first process dies."""


def recipe(folder: Path, name: str) -> Recipe:
    """Seven samples, so that two processes have different numbers of them."""
    _, scheme, fields = CASES[name]
    own = {"options": QUICK[fields["preset"]], **fields}
    return Recipe(LinearSpec.parse(scheme), data=DataSpec(str(folder / "text.txt"), 7, 24), batch_size=2, **own)


def quantise(folder: Path, name: str, out: str, ranks: Ranks = ALONE, **settings: Any) -> None:
    """The model of a case into the folder `out`."""
    pipeline.quantize(str(folder / CASES[name][0]), folder / out, recipe(folder, name), ranks=ranks, **settings)


def dying(at: Callable[[Event], bool]) -> Listener:
    """Ends the process where it stands, at an event."""
    return lambda event: os._exit(9) if at(event) else None


def main(folder: Path, names: list[str]) -> None:
    """Every case; of those in STOPPED, the first process dies in the middle."""
    pipeline.cache_folder = lambda: folder / "cache"
    torch.set_num_threads(1)
    with launched(torch.device("cpu")) as ranks:
        for name in names:
            if name in STOPPED:
                case, at = STOPPED[name]
                quantise(folder, case, name, ranks, on_event=dying(at))
            else:
                quantise(folder, name, f"{name} by {ranks.count}", ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
