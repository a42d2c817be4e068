"""What the planner says of models that this machine cannot hold: 8B, 70B, 405B and a mixture of experts of 1T.

    python benchmarks/plans.py [--markdown]

Every model is a config.json and files of the right size without contents, of which the planner reads the headers, as
it does of real ones. Memory is what `omniq quantize --dry-run` announces where hidden states lie on disk and integers
are read again. Time is its estimate at half the speed that the maker of a 24 GB consumer GPU states (165 and 82
teraflops, 1 TB/s), where processes divide what depends on the samples alone; nothing of it was run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from omniq import hf
from omniq.calibrate.data import DataSpec
from omniq.calibrate.methods.tuned import Default
from omniq.costs import START_SECONDS, cost, sizes
from omniq.footprint import WAYS, footprint
from omniq.header import TensorInfo, encode_header
from omniq.hf import OpenModel, build_skeleton
from omniq.hf.checks import causal_config
from omniq.page.words import duration
from omniq.planning import bits_per_weight
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.timing import Cost

GB = 1e9
HALF_A_CONSUMER_GPU = Cost(products=82e12, float32=41e12, passes=62e9)
PROCESSES = (1, 8)
PRESETS = ("rtn", "gptq", "fast", "default")
SCHEME, SAMPLES, LENGTH = "W4A16g128", 128, 2048
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
MODELS: dict[str, dict[str, Any]] = {
    "8B": LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "405B": LLAMA
    | {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
    "1T, 384 experts": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_experts": 384,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 60,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 163840,
        "tie_word_embeddings": False,
    },
}


def opened(folder: Path, values: dict[str, Any]) -> OpenModel:
    """A model of these sizes whose files hold nothing."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**values, "torch_dtype": "bfloat16"}))
    skeleton, _ = build_skeleton(causal_config(folder, trust_remote_code=False))
    infos = {name: TensorInfo(torch.bfloat16, tuple(param.shape)) for name, param in skeleton.named_parameters()}
    header = encode_header(infos, {"format": "pt"})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(info.nbytes for info in infos.values()))
    return hf.open_model(folder)


def rows(name: str, model: OpenModel, rates: Cost) -> Iterator[dict[str, str]]:
    """Every preset and number of processes."""
    for preset in PRESETS:
        for processes in PROCESSES if preset != "rtn" else (1,):
            recipe = asked(preset, SAMPLES, processes)
            lives = footprint(model, recipe, *WAYS[-1], on_device=True, processes=processes)
            count = sizes(model)
            seconds = START_SECONDS + cost(model, count, asked(preset, SAMPLES // processes, 1)).seconds(rates)
            yield {
                "model": name,
                "weights, GB": f"{2 * count.total / GB:.0f} -> {packed(model, recipe) / GB:.0f}",
                "preset": preset,
                "GPUs": str(processes),
                "each GPU, GB": f"{lives.device / GB:.1f}",
                "main memory a process, GB": f"{lives.host / GB:.1f}",
                "time": duration(seconds),
            }


def asked(preset: str, samples: int, processes: int) -> Recipe:
    """The recipe of a run with so many samples."""
    data = DataSpec("text.txt", samples, LENGTH)
    share = {"batch": max(1, Default.batch * samples // SAMPLES), "final_batch": processes}
    options = share if preset in ("fast", "default") else {}
    return Recipe(LinearSpec.parse(SCHEME), preset, options, data, batch_size=processes)


def packed(model: OpenModel, recipe: Recipe) -> float:
    """Bytes of the result."""
    count = sizes(model)
    return 2 * (count.total - count.linears) + count.linears * bits_per_weight(model, recipe) / 8


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="which to plan")
    parser.add_argument("--markdown", action="store_true", help="print a table for the documentation")
    args = parser.parse_args()
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as root:
        for number, name in enumerate(args.models):
            found += rows(name, opened(Path(root) / str(number), MODELS[name]), HALF_A_CONSUMER_GPU)
    rule = [["---"] * len(found[0])] if args.markdown else []
    lines = [list(found[0]), *rule, *(list(row.values()) for row in found)]
    for line in lines:
        print(f"| {' | '.join(line)} |" if args.markdown else "  ".join(f"{cell:>16}" for cell in line))


if __name__ == "__main__":
    main()
