"""The measurement behind `omniq bench decode`: whole models, each in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from omniq import hf
from omniq.bench.engines import Engine, dense_engine, llama_engine, llama_refusal, packed_engine
from omniq.bench.samples import Clock, clock_named
from omniq.memory import peak_memory, restart_peak
from omniq.spec import FLOAT_BITS

OMNIQ, TRANSFORMERS, LLAMA = "omniq", "transformers", "llama.cpp"
WARM_STEPS = 4
DIED = "its process ended without an answer, most likely for lack of memory"


@dataclass(frozen=True)
class Load:
    """What every model is given: T prompt tokens, then so many new ones, so many times, on so many threads."""

    prompt: int = 256
    new: int = 64
    runs: int = 3
    threads: int = 1
    device: str = "cpu"
    clock: str = "wall"


@dataclass(frozen=True)
class Subject:
    """A model to run. engine: OMNIQ, TRANSFORMERS or LLAMA. numbers: 'exact' or 'int8' activations, or a dtype.

    embed_bits: of the token table of a packed model. dtype: of its activations, None: the checkpoint's.
    """

    engine: str
    path: Path
    numbers: str
    embed_bits: int | None = None
    dtype: str | None = None

    def open(self, load: Load) -> Engine:
        """The model, loaded."""
        device = torch.device(load.device)
        if self.engine == LLAMA:
            return llama_engine(self.path, load.prompt + load.new + WARM_STEPS, load.threads)
        if self.engine == TRANSFORMERS:
            return dense_engine(self.path, getattr(torch, self.numbers), device)
        dtype = getattr(torch, self.dtype) if self.dtype else None
        return packed_engine(self.path, self.numbers, self.embed_bits or FLOAT_BITS, dtype, device)


@dataclass(frozen=True)
class Speed:
    """A row of the table; figures are None where `reason` says why the model did not run.

    prefill, decode: tokens a second, medians of the runs; slowest_decode: of the slowest run. kernels: what multiplies
    by the weights. libraries: peak bytes before the model is opened; load_peak: while it is; run_peak: from then on.
    """

    engine: str
    numbers: str
    embed_bits: int | None = None
    kernels: str = ""
    prefill: float | None = None
    decode: float | None = None
    slowest_decode: float | None = None
    libraries: int | None = None
    load_peak: int | None = None
    run_peak: int | None = None
    reason: str = ""


WAYS = (("exact", FLOAT_BITS), ("exact", 8), ("int8", 8))
"""How a packed model is run: its activations, and the bits of its token table."""
COLUMNS = tuple(field.name for field in fields(Speed))
RATIOS = {f"{what}_vs_{dtype}": (what, dtype) for dtype in ("bfloat16", "float32") for what in ("prefill", "decode")}


def subjects(packed: Path, against: Path | None, gguf: Path | None, dtype: str | None) -> list[Subject]:
    """The packed model in several ways; the original in bfloat16 and float32 and the GGUF file, where given."""
    found = [Subject(OMNIQ, packed, numbers, bits, dtype) for numbers, bits in WAYS]
    if against:
        found += [Subject(TRANSFORMERS, against, numbers) for numbers in ("bfloat16", "float32")]
    return [*found, Subject(LLAMA, gguf, "GGUF")] if gguf else found


def speeds(models: Sequence[Subject], load: Load) -> Iterator[Speed]:
    """One row after another, each measured in a fresh process."""
    for subject in models:
        reason = llama_refusal(subject.path) if subject.engine == LLAMA else None
        yield (
            Speed(subject.engine, subject.numbers, subject.embed_bits, reason=reason)
            if reason
            else in_own_process(subject, load)
        )


def in_own_process(subject: Subject, load: Load) -> Speed:
    """speed_of in a process that ends with it; the errors of omniq pass through."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        try:
            return pool.submit(speed_of, subject, load).result()
        except BrokenProcessPool:
            return Speed(subject.engine, subject.numbers, subject.embed_bits, reason=DIED)


def speed_of(subject: Subject, load: Load) -> Speed:
    """Loads and runs one model in this process."""
    torch.set_num_threads(load.threads)
    hf.quiet()
    device = torch.device(load.device)
    clock = clock_named(load.clock, load.threads)
    libraries = peak_memory(device)
    engine = subject.open(load)
    gc.collect()
    load_peak = peak_memory(device)
    restart_peak(device)
    prompt = random.Random(0).choices(range(engine.vocabulary), k=load.prompt)
    timed(engine, prompt, WARM_STEPS, clock)
    runs = [timed(engine, prompt, load.new, clock) for _ in range(load.runs)]
    return Speed(
        subject.engine,
        subject.numbers,
        subject.embed_bits,
        engine.kernels,
        prefill=load.prompt / statistics.median(first for first, _ in runs),
        decode=load.new / statistics.median(rest for _, rest in runs),
        slowest_decode=load.new / max(rest for _, rest in runs),
        libraries=libraries,
        load_peak=load_peak,
        run_peak=peak_memory(device),
    )


def timed(engine: Engine, prompt: Sequence[int], new: int, clock: Clock) -> tuple[float, float]:
    """Seconds for reading the prompt, and for `new` tokens after it."""
    start = clock()
    engine.prefill(prompt)
    middle = clock()
    for _ in range(new):
        engine.step()
    return middle - start, clock() - middle


def ratios(rows: Sequence[Speed]) -> list[dict[str, float | None]]:
    """For every row, how many times faster it is than transformers in bfloat16 and in float32."""
    base = {row.numbers: row for row in rows if row.engine == TRANSFORMERS}
    return [
        {
            name: getattr(row, what) / getattr(base[dtype], what)
            if dtype in base and not row.reason and not base[dtype].reason
            else None
            for name, (what, dtype) in RATIOS.items()
        }
        for row in rows
    ]
