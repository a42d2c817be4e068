"""What benchmarks/quality.py measures: every row's settings, and the rows measured so far."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "benchmarks" / "results" / "quality.csv"
COLUMNS = (
    *("model", "scheme", "preset", "options", "calibration", "samples"),
    *("bits_per_weight", "size_before", "size_after", "seconds", "peak_memory", "skipped_steps"),
    *("ppl_original", "ppl", "kl", "top1", "cpu_seconds", "threads", "torch", "machine", "commit", "date"),
    *("version", "steps", "tokens", "token_hash", "layers"),
    *("other_text", "other_ppl_original", "other_ppl", "other_kl", "other_top1", "recipe"),
)
"""The columns of the CSV. Rows from before a column was added leave it empty."""

WINDOWS, LENGTH, SAMPLES = 12, 512, 32
MATCHED = 128
"""Samples where omniq is held against peers: what most of them recommend."""
# Few epochs at a high rate: chosen by the calibration loss of SmolLM2's first two blocks at W3A16g64 (3 epochs at
# 0.01, 0.03, 0.06 end at 0.0377, 0.0258, 0.0224 of the target's power), never on the evaluation text.
OMNIQUANT = {"epochs": 3, "lwc_lr": 0.06}
PRESETS: dict[str, dict[str, Any]] = {
    "rtn": {},
    "gptq": {},
    "awq": {},
    "omniquant": OMNIQUANT,
    "fast": {},
    "default": {},
    "best": {},
}
FIRST = ("rtn", "gptq", "awq", "omniquant")
"""Presets that are compared with each other in every scheme."""
AUTOROUND = {"iters": 200, "batch_size": 4}
"""Its own number of steps, on batches of four, since its eight are of sequences four times as long."""
PEERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("auto-round", AUTOROUND),
    ("gptqmodel-gptaq", {}),
    ("gptqmodel-gptq", {}),
    ("llmcompressor-gptq", {}),
    ("llmcompressor-awq", {}),
    ("hqq", {}),
    ("torchao", {}),
)
SMOOTHQUANT = {"epochs": 0, "clip": "none"}
"""The start of omniquant's transformations, half way between activations and weights, is SmoothQuant's choice."""
PIECES: dict[str, dict[str, Any]] = {
    "searched channel scales": {"scaling": 0},
    "ranges searched under the inputs": {"search_ranges": False},
    "compensated integers as a start": {"compensate": False},
    "learned rounding": {"rounding_lr": 0.0},
    "learned ranges": {"range_lr": 0.0},
    "largest errors left out": {"drop": 0.0},
    "attention sinks left out": {"skip_sinks": False},
    "end-to-end tuning": {"final_epochs": 0},
}
"""What `default` is made of -> the options that leave it out."""
CELLS = (
    *(("smollm2", scheme) for scheme in ("W3A16g64", "W2A16g64", "W4A16g64", "W4A16")),
    *(("gemma3", scheme) for scheme in ("W3A16g128", "W2A16g128", "W4A16g128")),
)
TEXTS = {"wikitext2-valid": "wikitext-2/wiki.valid.clean.txt", "tofu-retain90": "tofu/retain90.json"}
"""Calibration text -> its file below the data folder; 'self' is text that the model writes."""


@dataclass(frozen=True)
class Run:
    """One row's settings: all that decides its result. preset: of omniq, or the name of a peer.

    recipe: fields of omniq's recipe beside these.
    """

    model: str
    scheme: str
    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    calibration: str = "wikitext2-valid"
    samples: int = SAMPLES
    recipe: dict[str, Any] = field(default_factory=dict)

    def key(self) -> str:
        """The row's identity in the CSV."""
        return json.dumps(asdict(self), sort_keys=True)

    def cells(self) -> dict[str, Any]:
        """The columns of a row that say what it is."""
        return asdict(self) | {name: json.dumps(getattr(self, name), sort_keys=True) for name in ("options", "recipe")}

    @property
    def of_peer(self) -> bool:
        """Whether another tool does the work."""
        return self.preset in dict(PEERS)


def runs() -> list[Run]:
    """Every row: the presets among themselves, omniq and the peers at matched tokens, and what has no peer here."""
    return [*presets(), *against_peers(), *few_activation_bits(), *mixed(), *switched_off()]


def few_activation_bits() -> Iterator[Run]:
    """W4A4 beside the baselines of the literature: SmoothQuant's scales alone, a Hadamard rotation alone."""
    plain = {"rotate": "none", "search_clips": False}
    for model in ("smollm2", "gemma3"):
        yield Run(model, "W4A4", "rtn", recipe={"rotate": "online"})
        yield Run(model, "W4A4", "omniquant", SMOOTHQUANT)
        yield Run(model, "W4A4", "gptq", recipe={"rotate": "inputs", "search_clips": True})
        for preset in ("fast", "default"):
            yield Run(model, "W4A4", preset)
        yield Run(model, "W4A4", "fast", recipe=plain)
    for preset in ("rtn", "gptq", "omniquant"):
        yield Run("smollm2", "W4A8", preset, PRESETS[preset])
    for scheme in ("W4A8", "W6A6"):
        for preset in ("fast", "default"):
            yield Run("smollm2", scheme, preset)


def mixed() -> Iterator[Run]:
    """Three bits on average against three bits everywhere."""
    for preset in ("rtn", "gptq", "fast", "default"):
        yield Run("smollm2", "W3A16g64", preset, samples=MATCHED, recipe={"avg_bits": 3.0})
        yield Run("gemma3", "W3A16g128", preset, samples=MATCHED, recipe={"avg_bits": 3.0})


def switched_off() -> Iterator[Run]:
    """`default` with one piece left out at a time: what each is worth."""
    for scheme in ("W3A16g64", "W2A16g64"):
        for options in PIECES.values():
            yield Run("smollm2", scheme, "default", options, samples=MATCHED)


def presets() -> list[Run]:
    """First rtn and omniquant everywhere and what LET is worth, then the presets between them."""
    smol = ["W4A16g64", "W3A16g64", "W2A16g64", "W4A4", "W4A16", "W6A6"]
    gemma = ["W4A16g128", "W3A16g128", "W2A16g128", "W4A4"]
    asym = [f"{scheme}-asym" for scheme in ("W3A16g64", "W2A16g64", "W4A16g64", "W4A16")]
    pairs = [("smollm2", scheme) for scheme in smol] + [("gemma3", scheme) for scheme in gemma]
    ends, between = ("rtn", "omniquant"), ("gptq", "awq")
    without = OMNIQUANT | {"let": False}
    rows = [run for scheme in asym for run in compared("smollm2", scheme, ("rtn",))]
    rows += [Run(model, "W4A4", "omniquant", without) for model in ("smollm2", "gemma3")]
    rows += [run for model, scheme in pairs for run in compared(model, scheme, ends)]
    rows += [
        Run(model, scheme, "omniquant", OMNIQUANT | {"skip_sinks": True}) for model, scheme in (pairs[1], pairs[7])
    ]
    rows += [run for model, scheme in pairs for run in compared(model, scheme, between)]
    rows += [Run("smollm2", "W3A16g64-asym", "omniquant", {"epochs": 10}, samples=24)]
    rows += [run for scheme in asym for run in compared("smollm2", scheme, ("omniquant",))]
    rows += [
        Run("smollm2", scheme, preset, PRESETS[preset], "self")
        for preset in ("omniquant", *between)
        for scheme in ("W3A16g64", "W4A16g64")
    ]
    rows += [run for scheme in asym for run in compared("smollm2", scheme, between)]
    return rows + [run for scheme in gemma[:3] for run in compared("gemma3", f"{scheme}-asym", FIRST)]


def compared(model: str, scheme: str, chosen: tuple[str, ...]) -> list[Run]:
    """One scheme with the given presets, at the table's settings."""
    return [Run(model, scheme, preset, PRESETS[preset]) for preset in chosen]


def against_peers() -> Iterator[Run]:
    """omniq's presets and every peer, cell by cell, on the same tokens; then calibrated on a text of another kind."""
    first, second = TEXTS
    for sides in ("", "-asym"):
        for model, scheme in CELLS:
            yield from side_by_side(model, scheme + sides, first)
    for model, scheme in CELLS:
        if not scheme.startswith("W4"):
            yield from side_by_side(model, scheme, second)


def side_by_side(model: str, scheme: str, calibration: str) -> Iterator[Run]:
    """One cell: every preset and every peer; AutoRound with fewer steps at 3 bits, and its own advice for 2 bits."""
    extra: list[dict[str, Any]] = []
    if scheme.startswith("W3"):
        extra = [AUTOROUND | {"iters": 50}, AUTOROUND | {"iters": 20}]
    elif scheme.startswith("W2") and not scheme.endswith("-asym"):
        extra = [AUTOROUND | {"enable_alg_ext": True}]
    for preset, options in (*PRESETS.items(), *PEERS, *(("auto-round", options) for options in extra)):
        yield Run(model, scheme, preset, options, calibration, MATCHED)


def read_rows() -> list[dict[str, str]]:
    """The rows measured so far."""
    if not CSV.is_file():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def run_of(row: dict[str, str]) -> Run:
    """The settings of a row of the CSV."""
    options, recipe, samples = json.loads(row["options"]), json.loads(row["recipe"] or "{}"), int(row["samples"])
    return Run(row["model"], row["scheme"], row["preset"], options, row["calibration"], samples, recipe)


def missing(wanted: Iterable[Run]) -> Iterator[Run]:
    """The runs that have no row yet, looked up when each one's turn comes."""
    for run in wanted:
        if run.key() not in {run_of(row).key() for row in read_rows()}:
            yield run


def keep(run: Run, facts: dict[str, Any]) -> None:
    """Adds a measured row to the CSV."""
    from omniq.bench.facts import append_rows, check_csv

    check_csv(CSV, COLUMNS)
    row = run.cells() | facts
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise SystemExit(f"the CSV has no column for {', '.join(unknown)}; add it to COLUMNS")
    append_rows(CSV, [{name: row.get(name, "") for name in COLUMNS}])
