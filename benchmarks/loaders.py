"""Every format x bits x group x symmetry, loaded by every loader that is there; logits against float64.

    python benchmarks/loaders.py --peers ENVS
    python benchmarks/loaders.py --table

Checkpoints are made on the spot, of a tiny Llama or of --model FOLDER, and rounded to nearest: what is compared is how
the integers are read. The reference multiplies by the dequantised weights in float64: the whole model, or one linear
where activations are rounded. Goes on where it was cut short: a row that the CSV has is not run again. gptqmodel and
auto-round run in environments of their own: ENVS/gptqmodel, with optimum in it, and ENVS/auto_round. llama.cpp is
checked by benchmarks/gguf_check.py, vLLM and SGLang by benchmarks/serving_check.py.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from loaders_child import LOADERS, PROBE, PROBED, REFERENCE
from safetensors.torch import save_file
from torch import Tensor

from omniq import hf
from omniq.bench.facts import append_rows, check_csv, commit
from omniq.formats.base import FORMATS
from omniq.grid import fake_quantize_tokens
from omniq.hf.tiny import word_tokenizer
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.runtime import quantized_linears
from omniq.spec import LinearSpec

CSV = Path(__file__).resolve().parent / "results" / "loaders.csv"
COLUMNS = (
    *("model", "format", "scheme", "loader", "result", "said", "compared", "max_difference", "relative_difference"),
    *("why", "version", "commit", "date"),
)
BITS, GROUPS = (4, 2, 3, 8), (32, 128, -1)
ACTIVATIONS = ("W8A8", "W4A8g128", "W4A4g128", "W3A8g128")
ELSEWHERE = {
    "gptqmodel": ("gptqmodel", "gptqmodel"),
    "transformers+gptqmodel": ("gptqmodel", "gptqmodel"),
    "transformers+auto-round": ("auto_round", "auto-round"),
}
"""Loader -> (folder of its environment, package that a format must need); the others run in this environment."""
DECOMPRESSED = "compressed-tensors"
SHAPE = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": False}
TOKENS = (2, 48)


@dataclass(frozen=True)
class Cell:
    """One checkpoint. form: a name in FORMATS."""

    form: str
    scheme: str

    @property
    def folder(self) -> str:
        """Its name on disk."""
        return f"{self.form}-{self.scheme}"


def cells(bits: Iterable[int], groups: Iterable[int], chosen: Iterable[str]) -> Iterator[Cell]:
    """The checkpoints that a format does not refuse for the linears of the tiny model."""
    weights = [f"W{b}A16{'' if g == -1 else f'g{g}'}{side}" for b in bits for g in groups for side in ("", "-asym")]
    for name in chosen:
        for scheme in (*weights, *ACTIVATIONS):
            shape = (SHAPE["hidden_size"], SHAPE["intermediate_size"])
            if FORMATS[name].refuse(LinearSpec.parse(scheme), shape) is None:
                yield Cell(name, scheme)


def tiny(folder: Path) -> Path:
    """A Llama of random weights, stored as float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS)).save_pretrained(folder)
        word_tokenizer(["a b c"]).save_pretrained(folder)
    return folder


def made(cell: Cell, source: Path, work: Path) -> Path:
    """The checkpoint of a cell with its reference beside it."""
    out = work / cell.folder
    if not out.is_dir():
        # Only omniq rounds q, k and v inside attention.
        recipe = Recipe(LinearSpec.parse(cell.scheme), preset="rtn", format=cell.form, attention=False)
        quantize(str(source), out, recipe)
        save_file(reference(out), out.with_suffix(".tmp"))
        out.with_suffix(".tmp").rename(out / REFERENCE)
    return out


@torch.no_grad()
def reference(folder: Path) -> dict[str, Tensor]:
    """What a child compares with: logits of dequantised weights, or a probe's output where activations are rounded."""
    from transformers import AutoModelForCausalLM

    some = torch.Generator().manual_seed(0)
    ids = torch.randint(3, SHAPE["vocab_size"], TOKENS, generator=some)
    opened = hf.open_model(folder, quantized=True)
    linears = dict(quantized_linears(opened).items())
    q, spec = linears[PROBED]
    if spec.input is not None:
        probe = torch.randn(*TOKENS, q.shape[1], generator=some)
        # The largest value of a row lies halfway between two codes: positive it is cut off to the lower by everyone.
        largest = probe.gather(2, probe.abs().argmax(2, keepdim=True))
        probe = probe * largest.sign()
        output = fake_quantize_tokens(probe.double(), spec.input) @ q.dequantize(torch.float64).T
        return {"ids": ids, PROBE: probe, "output": output}
    config = type(opened.config).from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    dense = {f"{name}.weight": q.dequantize(torch.float64) for name, (q, _) in linears.items()}
    model.load_state_dict(
        {name: dense[name] if name in dense else opened.read(name).double() for name in model.state_dict()}
    )
    return {"ids": ids, "logits": model(input_ids=ids).logits}


def said(cell: Cell, loader: str) -> str:
    """What the format says of a loader before anything is read: 'yes', 'no', or nothing."""
    start = {"lm-eval": "transformers", "omniq in transformers": "omniq"}
    name = start.get(loader, loader.partition("+")[0])
    sentences = FORMATS[cell.form].loaded_by(LinearSpec.parse(cell.scheme))
    found = next((text for text in sentences if text.startswith(name)), None)
    return "" if found is None else "no" if ": no" in found else "yes"


def fits(cell: Cell, loader: str) -> bool:
    """Whether a loader is asked at all: by what the format needs; the decompressor reads weights alone."""
    if loader.startswith("omniq"):
        return True
    needs = FORMATS[cell.form].needs
    if loader in ELSEWHERE:
        return ELSEWHERE[loader][1] in needs
    return DECOMPRESSED in needs and (loader != DECOMPRESSED or LinearSpec.parse(cell.scheme).input is None)


def interpreter(loader: str, peers: Path | None) -> Path | None:
    """The Python that has the loader, or None."""
    if loader not in ELSEWHERE:
        return Path(sys.executable)
    python = peers / ELSEWHERE[loader][0] / "bin" / "python" if peers else None
    return python if python and python.is_file() else None


def read_rows() -> list[dict[str, str]]:
    """The rows measured so far."""
    if not CSV.is_file():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def run(loader: str, python: Path, folders: dict[Path, Cell], model: str) -> None:
    """All cells by one loader in one process, each row kept as it comes."""
    command = [str(python), str(Path(__file__).with_name("loaders_child.py")), loader, *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in child.stdout:
            if not line.startswith('{"folder"'):
                continue
            facts = json.loads(line)
            cell = folders[Path(facts.pop("folder"))]
            where = {"commit": commit(), "date": datetime.date.today().isoformat()}
            row = {"model": model, "format": cell.form, "scheme": cell.scheme, "loader": loader, **facts, **where}
            row["said"] = said(cell, loader)
            append_rows(CSV, [{name: row.get(name, "") for name in COLUMNS}])
            print(f"{cell.form:20} {cell.scheme:14} {loader:24} {row['result']:8} {row['why'][:60]}", flush=True)
    if child.returncode:
        print(f"{loader}: its process ended with exit code {child.returncode}; run the script again to go on")


def table(rows: Iterable[dict[str, str]]) -> str:
    """Markdown: for every format and loader, what loads and how far off at most, and what does not."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["format"], row["loader"]), []).append(row)
    lines = ["| format | loader | loaded | largest relative difference | not |", "|---|---|---|---|---|"]
    for (form, loader), group in sorted(groups.items()):
        good = [row for row in group if row["result"] == "loaded"]
        bad = ", ".join(f"{row['scheme']} ({row['result']})" for row in group if row["result"] != "loaded")
        worst = max((float(row["relative_difference"]) for row in good), default=None)
        shown = "" if worst is None else f"{worst:.1e}"
        lines.append(f"| {form} | {loader} {group[-1]['version']} | {len(good)} of {len(group)} | {shown} | {bad} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="quantise this model folder instead of a tiny one")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments: gptqmodel, auto_round")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="these formats only")
    parser.add_argument("--loaders", nargs="+", choices=list(LOADERS), default=list(LOADERS), help="these loaders only")
    parser.add_argument("--bits", nargs="+", type=int, default=BITS, help="these bits only")
    parser.add_argument("--groups", nargs="+", type=int, default=GROUPS, help="these group sizes only; -1: a whole row")
    parser.add_argument("--work", type=Path, help="keep the checkpoints in this folder")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    return parser.parse_args()


def main() -> None:
    """Makes what is missing, loader by loader."""
    args = arguments()
    if not args.table:
        check_csv(CSV, COLUMNS)
        with tempfile.TemporaryDirectory() as scratch:
            measure(args, args.work or Path(scratch))
    print(table(read_rows()))


def measure(args: argparse.Namespace, work: Path) -> None:
    """Rows for every cell and loader that the CSV does not have."""
    model = args.model.name if args.model else "tiny Llama"
    known = {(row["model"], row["format"], row["scheme"], row["loader"]) for row in read_rows()}
    wanted = list(cells(args.bits, args.groups, args.formats))
    for loader in args.loaders:
        python = interpreter(loader, args.peers)
        if python is None:
            print(f"left out: {loader}: give the folder that holds its environment with --peers")
            continue
        missing = [c for c in wanted if fits(c, loader) and (model, c.form, c.scheme, loader) not in known]
        if missing:
            source = args.model or tiny(work / "source")
            run(loader, python, {made(cell, source, work): cell for cell in missing}, model)


if __name__ == "__main__":
    main()
