"""Loads checkpoints by one loader and compares logits with a stored reference: the part that runs in any environment.

    python benchmarks/loaders_child.py LOADER FOLDER ...

Prints a line of JSON for each folder. omniq is imported by its own loaders alone; gptqmodel's environment has none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

REFERENCE = "reference.safetensors"
"""Beside the checkpoints: ids (B, T), and float64 logits (B, T, V); or PROBE (B, T, K) float32 and its float64 output.

The second where activations are rounded: a value halfway between two codes goes up in one arithmetic and down in
another, which over a whole model grows to as much as rounding changes at all. So one linear is compared.
"""
PROBE, PROBED = "probe", "model.layers.0.mlp.down_proj"
ALIKE = 1e-2
"""Relative difference up to which two models are the same one in different arithmetic; a wrong code shows as more."""


def by_transformers(folder: Path) -> nn.Module:
    """What config.json asks for, by transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def by_decompressor(folder: Path) -> nn.Module:
    """Weights by compressed-tensors' own decompressor, in a dense model."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    (group,) = config.quantization_config["config_groups"].values()
    scheme, stored = QuantizationScheme.model_validate(group), load_file(folder / "model.safetensors")
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    dense = {name: tensor.float() for name, tensor in stored.items() if ".weight_" not in name}
    for layer in sorted({name.rpartition(".")[0] for name in stored if name.endswith(".weight_packed")}):
        leaves = {name[len(layer) + 1 :]: stored[name] for name in stored if name.startswith(f"{layer}.")}
        dense[f"{layer}.weight"] = compressor.decompress(leaves, scheme)["weight"].float()
    model.load_state_dict(dense)
    return model.eval()


def by_gptqmodel(folder: Path) -> nn.Module:
    """By gptqmodel itself, with the kernel it chooses on a CPU."""
    from gptqmodel import GPTQModel

    return GPTQModel.load(str(folder), device="cpu").model


def by_lm_eval(folder: Path) -> nn.Module:
    """As lm_eval --model hf --model_args pretrained=FOLDER does."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32").model


def by_omniq(folder: Path) -> nn.Module:
    """omniq.load."""
    import omniq

    return omniq.load(folder, dtype=torch.float32)


def by_omniq_in_transformers(folder: Path) -> nn.Module:
    """from_pretrained on omniq's kernels."""
    from omniq.transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


LOADERS: dict[str, tuple[Callable[[Path], nn.Module], tuple[str, ...]]] = {
    "transformers": (by_transformers, ("transformers", "compressed-tensors")),
    "compressed-tensors": (by_decompressor, ("compressed-tensors",)),
    "transformers+gptqmodel": (by_transformers, ("transformers", "gptqmodel", "optimum")),
    "transformers+auto-round": (by_transformers, ("transformers", "auto-round")),
    "gptqmodel": (by_gptqmodel, ("gptqmodel",)),
    "lm-eval": (by_lm_eval, ("lm_eval", "transformers", "compressed-tensors")),
    "omniq": (by_omniq, ("omniq",)),
    "omniq in transformers": (by_omniq_in_transformers, ("omniq", "transformers")),
}
"""Name -> what loads, and the packages that decide how."""


def difference(logits: Tensor, expected: Tensor) -> dict[str, float]:
    """The largest difference of a logit, and the norm of all differences relative to that of the logits."""
    gap = logits.double() - expected
    return {"max_difference": gap.abs().max().item(), "relative_difference": (gap.norm() / expected.norm()).item()}


@torch.no_grad()
def outcome(load: Callable[[Path], nn.Module], folder: Path) -> dict[str, Any]:
    """The cells of a row: loaded, wrong or refused, and by how much or why."""
    stored = load_file(folder / REFERENCE)
    try:
        model = load(folder)
        logits = model(input_ids=stored["ids"]).logits
        if PROBE in stored:
            found = difference(model.get_submodule(PROBED)(stored[PROBE]), stored["output"])
        else:
            found = difference(logits, stored["logits"])
    except Exception as error:  # noqa: BLE001 (whatever a loader raises is its answer)
        return {"result": "refused", "why": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}
    same, what = found["relative_difference"] < ALIKE, "one linear" if PROBE in stored else "logits"
    return {"result": "loaded" if same else "wrong", "compared": what, "why": "", **found}


def main() -> None:
    """One line for each folder."""
    load, packages = LOADERS[sys.argv[1]]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    for folder in sys.argv[2:]:
        print(json.dumps({"folder": folder, "version": versions, **outcome(load, Path(folder))}), flush=True)


if __name__ == "__main__":
    main()
