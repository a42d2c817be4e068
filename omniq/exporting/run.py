"""export: a quantised checkpoint in another tool's layout, the same integers, read back before it is there."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from omniq.errors import UnsupportedError, UsageError
from omniq.eval.size import checkpoint_bytes
from omniq.events import Listener, Notice, ignore
from omniq.exporting.base import MAX_SHARD_BYTES, TARGETS, Choices, Target, which_can
from omniq.exporting.origin import Origin
from omniq.exporting.placing import check_place, fresh_place, publish
from omniq.exporting.record import schemes
from omniq.exporting.report import ExportPlan, ExportReport
from omniq.footprint import RUNTIME_BYTES
from omniq.memory import peak_resident
from omniq.source import checked_folder
from omniq.work import Work

WORKING_BYTES = 8
"""Memory for one weight of the largest linear or table while it is unpacked, packed and compared."""
GATHERED_BYTES = 1 << 27
"""Packed linears that wait to be written together, and a shard's header."""


def plan(
    checkpoint: str | Path,
    out: str | Path,
    format: str,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> ExportPlan:
    """What export() would do with the same arguments; reads the checkpoint's headers only."""
    target, origin = _checked(checkpoint, out, format, dtype, overwrite, trust_remote_code)
    size = target.nbytes(origin, Choices(dtype))
    twice = 2 if target.suffix is None and not target.dtypes else 1
    return ExportPlan(
        checkpoint=str(checkpoint),
        origin=origin.format,
        target=format,
        schemes=schemes(origin),
        tables=origin.table and str(origin.table),
        size_before=checkpoint_bytes(origin.folder),
        size_after=size,
        peak_memory=RUNTIME_BYTES + _working_bytes(origin),
        work_bytes=twice * size,
        loaders=target.loaded_by(origin),
        notes=notes(origin),
    )


def export(
    checkpoint: str | Path,
    out: str | Path,
    format: str,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_event: Listener = ignore,
) -> ExportReport:
    """Writes the quantised folder `checkpoint` to `out` in the layout `format` (`omniq list formats`), without loss.

    dtype: of the weights that "dense" multiplies out; None takes the checkpoint's own. max_shard_bytes: of one
    safetensors file. What the layout cannot say is
    refused before any weight is read, and what only the data shows with the tensor's name. Nothing is at `out` before
    every number of it has been read back and compared.
    """
    began = time.perf_counter()
    target, origin = _checked(checkpoint, out, format, dtype, overwrite, trust_remote_code)
    choices = Choices(dtype, max_shard_bytes)
    for note in notes(origin):
        on_event(Notice(note))
    with Work(Path(out)) as work:
        result = fresh_place(work, target)
        said = target.write(origin, result, choices, on_event)
        target.verify(origin, result, choices)
        publish(work, result, target, overwrite)
    return ExportReport(
        out=str(out),
        origin=origin.format,
        target=format,
        schemes=schemes(origin),
        tables=origin.table and str(origin.table),
        size_before=checkpoint_bytes(origin.folder),
        size_after=checkpoint_bytes(Path(out)) if target.suffix is None else Path(out).stat().st_size,
        seconds=time.perf_counter() - began,
        peak_memory=peak_resident(),
        verified=True,
        loaders=target.loaded_by(origin),
        notes=(*notes(origin), *said),
    )


def notes(origin: Origin) -> tuple[str, ...]:
    """What the user should know of any export of this checkpoint."""
    if origin.attention is None:
        return ()
    return (f"{origin.attention.said} by omniq.load alone, as before the export",)


def _checked(
    checkpoint: str | Path, out: str | Path, name: str, dtype: torch.dtype | None, overwrite: bool, trust: bool
) -> tuple[Target, Origin]:
    """The target and the opened checkpoint; raises where the one cannot say the other, before any weight is read."""
    target, folder = TARGETS[name], checked_folder(Path(checkpoint))
    if dtype is not None and dtype not in target.dtypes:
        known = " or ".join(str(each).removeprefix("torch.") for each in target.dtypes)
        rule = f"takes {known}" if known else "stores integers, so leave --dtype out"
        raise UsageError(f"--dtype is {str(dtype).removeprefix('torch.')}, but format {name!r} {rule}")
    check_place(Path(out), target, folder, overwrite)
    origin = Origin(folder, trust_remote_code=trust)
    if reason := target.refuse(origin, Choices(dtype)):
        able = [other for other, each in TARGETS.items() if other != name and not each.refuse(origin, Choices())]
        raise UnsupportedError(f"format {name!r} cannot hold this checkpoint: {reason}. {which_can(able)}")
    return target, origin


def _working_bytes(origin: Origin) -> int:
    """Memory for the largest linear or table, and for the largest other tensor when it is compared with its copy."""
    shapes = [layer.shape for layer in origin.layers]
    shapes += [origin.stored_tables.shape(module) for module in origin.stored_tables.places]
    ordinary = max((origin.model.reader.info(name).nbytes for name in origin.ordinary()), default=0)
    return WORKING_BYTES * max(n * k for n, k in shapes) + GATHERED_BYTES + 2 * ordinary
