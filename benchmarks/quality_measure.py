"""One row of benchmarks/quality.py: a model quantised by omniq or by a peer, and judged by omniq's own evaluation."""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers.registry import module, python
from peers.steps import counted_calls, counted_steps
from peers.task import Task
from quality_check import checked
from quality_rows import LENGTH, ROOT, TEXTS, WINDOWS, Run
from quality_texts import as_text, fingerprint
from safetensors.torch import save_file
from torch import nn

import omniq
from omniq.bench.facts import commit, machine
from omniq.calibrate import tuning
from omniq.calibrate.data import SELF, DataSpec, tokens
from omniq.checkpoint import Reader
from omniq.eval.compare import compare
from omniq.eval.size import checkpoint_bytes
from omniq.eval.windows import EvalSpec, windows
from omniq.hf import cache_folder, load_dense, load_tokenizer, open_model
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.runtime import forward_of, load
from omniq.spec import LinearSpec

SHOWN = 16
"""Characters of a hash in the CSV."""


@dataclass(frozen=True)
class Places:
    """model: its folder. data: the folder of texts. other: text of another kind to evaluate on, too. peers: folder of
    their environments. work: folder for what is written."""

    model: Path
    data: Path
    other: Path
    peers: Path | None
    work: Path

    def calibration(self, run: Run) -> DataSpec:
        """The row's calibration text."""
        source = SELF if run.calibration == SELF else str(as_text(self.data / TEXTS[run.calibration], self.work))
        return DataSpec(source, run.samples, LENGTH)


def measured(run: Run, places: Places) -> dict[str, Any]:
    """Quantises and evaluates one row; plain values by the CSV's columns."""
    made = by_peer(run, places) if run.of_peer else by_omniq(run, places)
    return made | {
        "machine": machine(torch.device("cpu")),
        "commit": commit(ROOT),
        "date": datetime.date.today().isoformat(),
    }


def by_omniq(run: Run, places: Places) -> dict[str, Any]:
    """Through the public pipeline, then judged on both texts."""
    out, steps, signed = places.work / "out", counted_steps(), counted_calls(tuning, "_descend")
    recipe = Recipe(LinearSpec.parse(run.scheme), run.preset, run.options, places.calibration(run), **run.recipe)
    began = _cpu_seconds()
    report = quantize(str(places.model), out, recipe)
    cpu = _cpu_seconds() - began
    names = ("bits_per_weight", "size_before", "size_after", "seconds", "peak_memory", "skipped_steps")
    used = json.loads((out / "config.json").read_text())["omniq"]["data_fingerprint"]
    return {name: getattr(report, name) for name in names} | {
        "cpu_seconds": round(cpu, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": f"omniq {omniq.__version__}",
        "steps": steps() + signed(),
        "tokens": run.samples * LENGTH if used else 0,
        "token_hash": (used or "")[:SHOWN],
        "layers": len(open_model(places.model).linears),
        **judged(places, load(out)),
    }


def by_peer(run: Run, places: Places) -> dict[str, Any]:
    """In the peer's environment on the tokens that omniq would have, then checked and judged as omniq's own."""
    spec, opened = LinearSpec.parse(run.scheme).weight, open_model(places.model)
    data = tokens(
        places.calibration(run),
        load_tokenizer(places.model),
        model_key=opened.reader.fingerprint(),
        generate=None,
        cache=cache_folder() / "tokens",
    )
    task = Task(
        *(places.model.resolve(), places.work / "tokens.safetensors"),
        *(spec.bits, spec.group_size, spec.symmetric, places.work, run.options),
    )
    save_file({"ids": data.ids}, task.tokens)
    task.write(places.work / "task.json")
    command = [str(python(places.peers, run.preset)), str(ROOT / "benchmarks" / "peer.py"), run.preset]
    settings = os.environ | {"HF_HUB_OFFLINE": "1"} | module(run.preset).ENVIRONMENT
    subprocess.run([*command, str(places.work / "task.json")], check=True, stdout=sys.stderr, env=settings)
    facts = json.loads(task.facts.read_text())
    return facts | {
        "size_before": checkpoint_bytes(places.model),
        "token_hash": data.fingerprint[:SHOWN] if facts["tokens"] else "",
        **checked(opened, Reader(task.dense), spec),
        **judged(places, load_dense(task.dense, opened.dtype)),
    }


def judged(places: Places, model: nn.Module) -> dict[str, Any]:
    """Perplexity, KL and top-1 agreement on the same windows of both texts, beside the original."""
    tokenizer, original = load_tokenizer(places.model), load_dense(places.model)
    main, other = places.data / "wikitext-2" / "wiki.test.raw", as_text(places.other, places.work)
    found: dict[str, Any] = {"other_text": fingerprint(other)}
    for prefix, text in (("", main), ("other_", other)):
        ids = windows(EvalSpec(text, WINDOWS, LENGTH), tokenizer)
        result = compare(forward_of(original), forward_of(model), ids)
        found |= {prefix + name: getattr(result, name) for name in ("ppl_original", "ppl", "kl", "top1")}
    return found


def row(run: Run, model: Path, data: Path, other: Path, peers: Path | None) -> dict[str, Any]:
    """measured() in a temporary folder."""
    with tempfile.TemporaryDirectory() as work:
        return measured(run, Places(model, data, other, peers, Path(work)))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
