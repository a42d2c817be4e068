"""quantize: from a model to a verified low-bit checkpoint, resumable at every block."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from omniq.assemble import copied_files
from omniq.calibrate.data import CalibrationData, check_vocabulary
from omniq.calibrate.hidden import in_memory, on_disk
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.eval.size import checkpoint_bytes
from omniq.eval.windows import EvalSpec
from omniq.events import Listener, Notice, ignore
from omniq.footprint import placement
from omniq.hf import cache_folder, open_model, resolve
from omniq.job import Job
from omniq.made import Session, report
from omniq.memory import EVERYTHING, Budget, available, in_units, peak_resident
from omniq.planning import check
from omniq.planning import plan as planned
from omniq.precision import fast_dtype
from omniq.recipe import Recipe
from omniq.report import Plan, Report
from omniq.reporting.record import Record
from omniq.rotation.model import rotated
from omniq.timing import rates
from omniq.work import Work, check_apart, check_free, work_folder


def plan(
    model: str,
    out: Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "cpu",
    max_memory: Budget = EVERYTHING,
) -> Plan:
    """What quantize() would do with the same arguments; reads the model's headers only."""
    out = Path(out)
    check_free(out, overwrite)
    folder = resolve(model, revision=revision, trust_remote_code=trust_remote_code, work=cache_folder())
    check_apart(out, folder)
    opened, place = open_model(folder, trust_remote_code=trust_remote_code), torch.device(device)
    opened = rotated(opened, recipe.rotation, recipe.seed)
    speed = rates(place, fast_dtype(recipe, place))
    return planned(opened, model, recipe, checkpoint_bytes(folder), speed, max_memory, place.type != "cpu")


def quantize(
    model: str,
    out: Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "cpu",
    evaluate: EvalSpec | None = None,
    on_event: Listener = ignore,
    data: CalibrationData | None = None,
    max_memory: Budget = EVERYTHING,
    ranks: Ranks = ALONE,
) -> Report:
    """Quantises `model` (hub id, folder or GGUF file) into the folder `out`; returns what was done and measured.

    Interrupted at any moment, the same call goes on at the block where it stopped and ends with the same bits.
    data: calibration tokens in place of those that the recipe's source names. max_memory: what it may hold. ranks: the
    processes that share the samples, each of which makes the same call.
    """
    began = time.perf_counter()
    out = Path(out)
    check_free(out, overwrite)
    cache = cache_folder()
    folder = resolve(model, revision=revision, trust_remote_code=trust_remote_code, work=cache)
    check_apart(out, folder)
    copied_files(folder)  # a link that leads out of it is refused now, not when all is done
    opened = rotated(open_model(folder, trust_remote_code=trust_remote_code), recipe.rotation, recipe.seed)
    check(opened, recipe, has_tokens=data is not None)
    if data is not None:
        check_vocabulary(data.ids, opened.skeleton.get_input_embeddings().num_embeddings)
    given = data if recipe.needs_data else None
    place = ranks.device if ranks.count > 1 else torch.device(device)
    lives = placement(opened, recipe, max_memory, place.type != "cpu", ranks.count)
    if ranks.first and lives.host > (free := available()):
        on_event(Notice(f"this run needs about {in_units(lives.host)} of memory, and {in_units(free)} are free"))
    room = on_disk(work_folder(out)) if lives.streams_on_disk else in_memory
    job = Job(
        opened, model, recipe, place, cache / "tokens", trust_remote_code, given, ranks, room, lives.codes_in_memory
    )
    ids = None if evaluate is None else job.windows(evaluate)

    def finished() -> Record:
        result = work.result()
        job.write(work, result)
        job.verify(work, result)
        session = Session(time.perf_counter() - began, peak_resident(), job.resumed_at)
        quality = None if ids is None else job.measure(result, ids, evaluate.batch)
        record = job.tell(work, result, session, quality)
        work.publish(result, overwrite)
        return record

    with Work(out, ranks, room) as work:
        job.calibrate(work, overwrite, on_event)
        return report(out, ranks.by_first(finished))
