"""From the arguments of omniq.quantize to a recipe, calibration data and a model folder."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from omniq import hf
from omniq.calibrate.data import GIVEN, CalibrationData, given_ids, tokens
from omniq.calibrate.method import METHODS
from omniq.choices import DATA, DEFAULT_SCHEME, IN_SCHEME, PLAIN, merged, recipe_file
from omniq.errors import DataError, UsageError
from omniq.events import Event, Listener
from omniq.progress import ProgressReport
from omniq.recipe import Recipe, read_recipe
from omniq.spec import LinearSpec
from omniq.work import Work

SETTINGS = (*PLAIN, "bits_choices", *(name for name in DATA if name not in (*PLAIN, "calib")))
"""Arguments of omniq.quantize that go into the recipe under the command line's names."""
BITS = ("avg_bits", "bits_choices")
Given: TypeAlias = tuple[str, ...] | Tensor
"""Calibration data from memory: documents, or token ids (B, T) int64."""


def given_data(data: Any) -> Given | None:
    """Calibration data that come from memory, checked; None where `data` names a source or is not given."""
    if data is None or isinstance(data, (str, Path)):
        return None
    if isinstance(data, Tensor):
        return given_ids(data).ids
    if not isinstance(data, (list, tuple)) or not all(isinstance(text, str) for text in data):
        raise UsageError(
            f"data is of type {type(data).__name__}; give 'self', a file, a hub data set, a list of texts, or token "
            "ids (B, T) as a torch.int64 tensor"
        )
    if not any(text.strip() for text in data):
        raise DataError("data is a list without text; give texts to calibrate on, or 'self'")
    return tuple(data)


def recipe_of(
    scheme: str | LinearSpec | None,
    data: str | Path | Sequence[str] | Tensor | None,
    config: str | Path | Recipe | None,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Recipe:
    """The recipe `config` with everything given over it. given: SETTINGS by name, None where not given."""
    base = config_values(config)
    if scheme is not None:
        base = {name: value for name, value in base.items() if name not in BITS} | {"scheme": scheme_text(scheme)}
    preset = given["preset"] or base.get("preset", Recipe.preset)
    if isinstance(preset, str):
        check_options(options, preset)
    values = merged(base, {**given, **data_values(data, given)}, options)
    return Recipe.from_dict(values, str(config) if isinstance(config, (str, Path)) else "omniq.quantize")


def config_values(config: str | Path | Recipe | None) -> dict[str, Any]:
    """The mapping of a recipe that is named, in a file or an object."""
    if config is None:
        return {"scheme": DEFAULT_SCHEME}
    if isinstance(config, Recipe):
        return config.to_dict()
    if not isinstance(config, (str, Path)):
        raise UsageError(f"config is of type {type(config).__name__}; give a Recipe, a YAML file or a recipe's name")
    return read_recipe(recipe_file(Path(config)))


def scheme_text(scheme: Any) -> str:
    """'W4A16g128' of text or of a LinearSpec."""
    if not isinstance(scheme, (str, LinearSpec)):
        raise UsageError(f"scheme is {scheme!r}; write for example 'W4A16g128', or give a LinearSpec")
    return str(scheme)


def data_values(data: str | Path | Sequence[str] | Tensor | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What calibration data set in the recipe, under the command line's names."""
    if data is None or isinstance(data, (str, Path)):
        return {"calib": None if data is None else str(data)}
    if not isinstance(data, Tensor):
        return {"calib": GIVEN}
    for name in ("samples", "length"):
        if given[name] is not None:
            raise UsageError(f"{name} says how to draw sequences from text; token ids (B, T) are used as they are")
    return {"calib": GIVEN, "samples": data.shape[0], "length": data.shape[1]}


def check_options(options: Mapping[str, Any], preset: str) -> None:
    """Raises UsageError for a name that is neither an argument of omniq.quantize nor an option of the preset."""
    own = [field.name for field in fields(METHODS[preset])]
    for name in options:
        if name in own:
            continue
        if name in IN_SCHEME:
            raise UsageError(f"{name} is part of the scheme; write for example omniq.quantize(model, 'W4A16g128')")
        near = difflib.get_close_matches(name, [*own, *SETTINGS, "data", "out", "config", "device"], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"omniq.quantize has no option {name!r}; {hint}Preset {preset!r} adds: {', '.join(own) or 'none'}"
        )


def calibration(
    given: Given | None, recipe: Recipe, model: str, revision: str | None, trust_remote_code: bool
) -> CalibrationData | None:
    """The tokens of data from memory, drawn as from a file; None where the recipe names its source."""
    if isinstance(given, Tensor):
        return given_ids(given)
    if given is None or not recipe.needs_data:
        return None
    folder = hf.resolve(model, revision=revision, trust_remote_code=trust_remote_code, work=hf.cache_folder())
    tokenizer = hf.load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return tokens(recipe.data, tokenizer, model_key="", generate=None, cache=None, texts=given)


@contextmanager
def placed(out: str | Path | None) -> Iterator[Path]:
    """The folder to write to; a temporary one, where none is given, is removed again when the run fails."""
    if out is not None:
        if not isinstance(out, (str, Path)):
            raise UsageError(f"out is {out!r}; give the path of a folder, or leave it out for a temporary one")
        yield Path(out).expanduser()
        return
    parent = Path(tempfile.mkdtemp(prefix="omniq-"))
    try:
        yield parent / "quantized"
    except BaseException:
        shutil.rmtree(parent, ignore_errors=True)
        raise


@contextmanager
def named(model: Any, tokenizer: Any, out: Path, needs_tokenizer: bool) -> Iterator[str]:
    """The hub id, folder or GGUF file of a model; one in memory is a folder beside `out` for as long as this lasts.

    That folder has the same content whenever the model has, so that an interrupted run can go on.
    """
    if isinstance(model, (str, Path)):
        if tokenizer is not None:
            raise UsageError(f"tokenizer goes with a model in memory; {model} has its own, so leave it out")
        yield str(model)
        return
    model, tokenizer = hf.checked_model(model), hf.checked_tokenizer(tokenizer)
    if needs_tokenizer and tokenizer is None:
        raise UsageError(
            "a model in memory needs its tokenizer: give tokenizer=, or token ids (B, T) as data and no text for eval"
        )
    with Work(out.with_name(f"{out.name}.source")) as beside:
        yield str(hf.save_model(model, tokenizer, beside.result()))


@contextmanager
def told(progress: bool, on_event: Listener) -> Iterator[Listener]:
    """What to tell of a run: `on_event`, and with `progress` the bars of the command line too."""
    if not progress:
        yield on_event
        return
    with ProgressReport() as shown:

        def both(event: Event) -> None:
            shown(event)
            on_event(event)

        yield both
