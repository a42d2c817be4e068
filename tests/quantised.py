"""Tiny models quantised to nearest, made once for many tests that only read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_text, save_tiny

from omniq import pipeline
from omniq.calibrate.data import DataSpec
from omniq.recipe import Recipe
from omniq.spec import LinearSpec

Made = Callable[..., Path]


def maker(home: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Made:
    """Gives the folder for an architecture, a scheme, a dtype and options of the recipe; every combination once.

    changes: to the sizes of an architecture's tiny model.
    """
    known: dict[Any, Path] = {}
    text = save_text(home / "text.txt")

    def make(name: str = "llama", scheme: str = "W4A16g32", dtype: torch.dtype = torch.bfloat16, **options) -> Path:
        key = (name, scheme, dtype, *options.items())
        if key not in known:
            place = home / str(len(known))
            model = save_tiny(name, place / "model", dtype, **(changes or {}).get(name, {}))
            recipe = Recipe(LinearSpec.parse(scheme), "rtn", data=DataSpec(str(text), 4, 24), **options)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "cache_folder", lambda: home / "cache")
                pipeline.quantize(str(model), place / "out", recipe)
            known[key] = place / "out"
        return known[key]

    return make
