"""Peak memory: a model three times as large as the memory given is quantised by each preset; one CSV row per run.

    python benchmarks/memory.py

Makes a random Llama-shaped model of 3.8 GB in bfloat16 in a temporary folder (about 7 GB of disk are needed), and
quantises it with --max-memory 1.2GB. A process whose own data exceed that limit fails, and the row says what it held
at most, libraries included, beside what the plan had announced. The first row is the control: loading the whole model
under the same limit. Goes on where it was cut short: a row whose settings are in the CSV already is not run again. The
exit code is 1 where a preset failed.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "benchmarks" / "results" / "memory.csv"
SCHEME, SAMPLES, LENGTH = "W4A16g128", 4, 128
PRESETS: dict[str, dict[str, Any]] = {
    "rtn": {},
    "gptq": {},
    "default": {"scaling": 4, "steps": 8, "final_epochs": 1},
    "awq": {"grid": 4},
    "omniquant": {"epochs": 1},
}
"""With options that make them short."""
CONTROL = "whole model loaded"
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 2048,
}
MAX_SHARD_BYTES = 500_000_000
SENTENCE = "{}: the quick brown fox jumps over the lazy dog while seven wizards quietly box up forty jars of fuel.\n"


def make_model(folder: Path, layers: int) -> int:
    """Writes a random model with a tokenizer, one tensor in memory at a time; the bytes of its weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from omniq.shards import write_model

    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, dtype="bfloat16", bos_token_id=0, eos_token_id=1)
    with torch.device("meta"):
        shapes = {name: param.shape for name, param in AutoModelForCausalLM.from_config(config).named_parameters()}
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    (folder / "text.txt").write_text("".join(map(SENTENCE.format, range(2000))))
    tokenizer(folder / "text.txt").save_pretrained(folder)
    files = write_model(folder, random_tensors(shapes), MAX_SHARD_BYTES)
    return sum(file.stat().st_size for file in files)


def tokenizer(text: Path) -> Any:
    """A byte-level BPE of 320 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    raw.train(
        [str(text)],
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def random_tensors(shapes: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Sources for write_model: norms of ones, matrices that keep the variance of what they multiply."""
    import torch

    from omniq.header import TensorInfo

    def make(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = torch.ones(shape, dtype=torch.bfloat16)
        random = torch.Generator().manual_seed(seed)
        return tensor if len(shape) == 1 else tensor.normal_(0, shape[-1] ** -0.5, generator=random)

    for seed, (name, shape) in enumerate(shapes.items()):
        yield name, TensorInfo(torch.bfloat16, tuple(shape)), partial(make, seed, tuple(shape))


def measured(folder: Path, preset: str, limit: int) -> dict[str, Any]:
    """Quantises, or loads, the model in this process, whose data are limited first; plain values."""
    from omniq.memory import Budget, peak_resident

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    began = time.perf_counter()
    if preset == CONTROL:
        from omniq.hf import load_dense

        load_dense(folder)
    else:
        from omniq.pipeline import quantize

        quantize(str(folder), folder.parent / preset, recipe(folder, preset), max_memory=Budget(limit))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "peak_rss": peak_resident(),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def recipe(folder: Path, preset: str) -> Any:
    """What is run: few and short samples, since only memory is measured."""
    from omniq.calibrate.data import DataSpec
    from omniq.recipe import Recipe
    from omniq.spec import LinearSpec

    data = DataSpec(str(folder / "text.txt"), SAMPLES, LENGTH)
    return Recipe(LinearSpec.parse(SCHEME), preset, PRESETS[preset], data)


def planned(folder: Path, preset: str, limit: int) -> int | str:
    """The peak that `omniq quantize --dry-run` announces; nothing where it refuses."""
    from omniq.errors import UsageError
    from omniq.memory import Budget
    from omniq.pipeline import plan

    try:
        return plan(str(folder), folder.parent / "out", recipe(folder, preset), max_memory=Budget(limit)).peak_memory
    except UsageError:
        return ""


def done_presets(found: Path, model_bytes: int, limit: int) -> set[str]:
    """Presets with a row of this model and this limit in the file."""
    if not found.is_file():
        return set()
    with found.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["preset"] for row in rows if (row["model_bytes"], row["limit"]) == (str(model_bytes), str(limit))}


def run_row(folder: Path, model_bytes: int, preset: str, limit: int) -> dict[str, Any]:
    """One preset in a process of its own; a failure is a row too, with the last line it said."""
    import torch

    from omniq.bench.facts import commit, machine

    command = [sys.executable, __file__, "--child", preset, "--model", str(folder), "--limit", str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = (done.stderr.strip().splitlines() or [""])[-1].replace(str(folder), "MODEL")[:120]
    facts = dict.fromkeys(("peak_rss", "seconds", "cpu_seconds"), "")
    if done.returncode == 0:
        facts = json.loads(done.stdout.splitlines()[-1])
    return {
        "model_bytes": model_bytes,
        "limit": limit,
        "preset": preset,
        "scheme": SCHEME,
        "samples": SAMPLES,
        "length": LENGTH,
        "ok": done.returncode == 0,
        **facts,
        "planned_peak": "" if preset == CONTROL else planned(folder, preset, limit),
        "error": "" if done.returncode == 0 else said,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine(torch.device("cpu")),
        "commit": commit(ROOT),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Runs what is missing, row by row."""
    from omniq.bench.facts import append_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=148, help="decoder blocks; 148 make 3.8 GB")
    parser.add_argument("--limit", type=int, default=1_288_490_188, help="bytes of memory; 1.2 GB")
    parser.add_argument("--presets", nargs="+", default=[CONTROL, *PRESETS], help="rows to run")
    parser.add_argument("--csv", type=Path, default=CSV, help="the file of rows")
    parser.add_argument("--model", type=Path, help="its model folder (used by the script itself)")
    parser.add_argument("--child", help="run this one row and print its facts as JSON (used by the script itself)")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(args.model, args.child, args.limit)))
        return
    failed = False
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        folder.mkdir()
        model_bytes = make_model(folder, args.layers)
        for preset in args.presets:
            if preset in done_presets(args.csv, model_bytes, args.limit):
                continue
            row = run_row(folder, model_bytes, preset, args.limit)
            append_rows(args.csv, [row])
            failed |= preset != CONTROL and not row["ok"]
            print(", ".join(f"{key} {row[key]}" for key in list(row)[:13]), flush=True)
            for made in (folder.parent / preset, folder.parent / f".{preset}.omniq"):
                shutil.rmtree(made, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
