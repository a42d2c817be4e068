"""What vLLM makes of our checkpoints, by its own code: which scheme and kernel, and which tensors it wants.

    python benchmarks/serving_check.py --vllm FOLDER

FOLDER holds the unpacked wheel (pip download --no-deps vllm; unzip): their compiled parts are not needed. Their code is
imported on this machine's CPU, told that it runs on a GPU of a given compute capability, and asked for the layer of
each format x scheme; the names, shapes and dtypes of its parameters are compared with the tensors we write. Nothing is
computed: that needs the GPU. Packages that only other parts of theirs use, and that are not installed, are stubs.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch

import omniq.formats.base
from omniq.bench.facts import commit
from omniq.formats.base import FORMATS
from omniq.grid import encode, minmax_grid
from omniq.spec import LinearSpec

CSV = Path(__file__).resolve().parent / "results" / "serving.csv"
NAME = "model.layers.0.self_attn.o_proj"
SHAPE = (512, 1024)
CAPABILITIES = ((7, 5), (8, 0), (9, 0))
GROUPS = ("g32", "g64", "g128", "g256", "")
WEIGHTS = tuple(f"W{bits}A16{group}{side}" for bits in (2, 3, 4, 8) for group in GROUPS for side in ("", "-asym"))
SCHEMES = (*WEIGHTS, "W8A8", "W4A8", "W4A8g128", "W4A4g128", "W3A8g128", "W4A4", "W4A8g128-asym")
COLUMNS = ("loader", "format", "scheme", "capability", "result", "said", "kernel", "why", "version", "commit", "date")


SKIPPED = {"g_idx"}
"""Written for GPTQ's other loaders; vLLM passes over it, since groups are in order."""


class Stub(types.ModuleType):
    """A package that is not there: every name in it is a class or a thing that takes any call."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {"__module__": self.__name__}) if name[:1].isupper() else MagicMock(name=name)
        setattr(self, name, value)
        return value


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages of the given names, as stubs."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """A stub's spec, or None."""
        known = name.split(".")[0] in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The stub."""
        return Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def imported(module: str) -> Any:
    """A module of theirs; ends the script with the package that is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f"{module} needs the package {error.name}; install it, or name it with --stub")


def tensors(form: omniq.formats.base.Format, spec: LinearSpec) -> dict[str, torch.Tensor]:
    """What we write for one linear of SHAPE."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    dtype = form.scale_dtype(torch.bfloat16)
    return form.pack(encode(weight, *minmax_grid(weight, spec.weight, dtype), spec.weight, dtype))


class Vllm:
    """vLLM's configs and linear methods."""

    name = "vLLM"

    def __init__(self) -> None:
        self.version = imported("vllm.version").__version__
        self.platforms = imported("vllm.platforms.interface")
        at = "vllm.model_executor.layers.quantization"
        self.configs = {
            "compressed-tensors": imported(f"{at}.compressed_tensors.compressed_tensors").CompressedTensorsConfig,
            "gptq": imported(f"{at}.auto_gptq").AutoGPTQConfig,
            "awq": imported(f"{at}.auto_awq").AutoAWQConfig,
        }
        self.linear = imported("vllm.model_executor.layers.linear")
        for module in ("vllm.model_executor.parameter", "vllm.model_executor.layers.linear"):
            imported(module).get_tensor_model_parallel_rank = lambda: 0
            imported(module).get_tensor_model_parallel_world_size = lambda: 1

    def claim(self, capability: tuple[int, int]) -> None:
        """Lets vLLM believe in a GPU."""
        here = type(sys.modules["vllm.platforms"].current_platform)
        here._enum = self.platforms.PlatformEnum.CUDA
        major, minor = capability
        here.get_device_capability = classmethod(lambda cls, device_id=0: self.platforms.DeviceCapability(major, minor))

    def layer(self, entry: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
        """(parameters by name, kernel) of the layer that a quantization_config asks for."""
        config = self.configs[entry["quant_method"]].from_config(entry)
        layer = torch.nn.Module.__new__(self.linear.ReplicatedLinear)
        torch.nn.Module.__init__(layer)
        layer.input_size, layer.output_size = SHAPE[1], SHAPE[0]
        layer.input_size_per_partition, layer.output_size_per_partition = SHAPE[1], SHAPE[0]
        method = config.get_quant_method(layer, NAME)
        method.create_weights(
            layer=layer,
            input_size_per_partition=SHAPE[1],
            output_partition_sizes=[SHAPE[0]],
            input_size=SHAPE[1],
            output_size=SHAPE[0],
            params_dtype=torch.bfloat16,
            weight_loader=lambda *_: None,
        )
        kernel = getattr(getattr(layer, "scheme", method), "kernel", None)
        return dict(layer.named_parameters()), type(kernel or getattr(layer, "scheme", method)).__name__


def mismatch(wanted: dict[str, torch.Tensor], written: dict[str, torch.Tensor]) -> str:
    """How the layer's parameters differ from the tensors written, or ''."""
    for name in sorted({*wanted, *written} - SKIPPED):
        if name not in wanted or name not in written:
            return f"{name} is {'not wanted' if name not in wanted else 'not written'}"
        theirs, ours = wanted[name], written[name]
        floats = theirs.is_floating_point() and ours.is_floating_point()
        if tuple(theirs.shape) != tuple(ours.shape) or not (floats or theirs.dtype == ours.dtype):
            return f"{name} is {ours.dtype} {list(ours.shape)}, wanted {theirs.dtype} {list(theirs.shape)}"
    return ""


def rows(loader: Any) -> Iterator[dict[str, Any]]:
    """One row for each format, scheme and capability that the format can store."""
    for form_name, form in FORMATS.items():
        method = form.config({NAME: LinearSpec.parse("W4A16g128")}, ())["quant_method"]
        if method not in loader.configs:
            print(f"not asked: {form_name}: this script does not know which part of {loader.name} reads {method!r}")
            continue
        for scheme in SCHEMES:
            spec = LinearSpec.parse(scheme)
            if form.refuse(spec, SHAPE) is not None:
                continue
            written = tensors(form, spec)
            sentence = next((text for text in form.loaded_by(spec) if text.startswith(loader.name)), "")
            for capability in CAPABILITIES:
                loader.claim(capability)
                found = answer(lambda form=form, spec=spec: loader.layer(form.config({NAME: spec}, ())), written)
                yield {
                    "loader": loader.name,
                    "format": form_name,
                    "scheme": scheme,
                    "capability": "{}.{}".format(*capability),
                    "said": sentence,
                    "version": loader.version,
                    "commit": commit(),
                    "date": datetime.date.today().isoformat(),
                    **found,
                }


def answer(
    layer: Callable[[], tuple[dict[str, torch.Tensor], str]], written: dict[str, torch.Tensor]
) -> dict[str, str]:
    """result, kernel and why of a row."""
    try:
        wanted, kernel = layer()
    except Exception as error:  # noqa: BLE001 (whatever their code raises is its answer)
        why = " | ".join(line.strip() for line in str(error).splitlines()) or type(error).__name__
        return {"result": "refused", "kernel": "", "why": why[:400]}
    differs = mismatch(wanted, written)
    return {"result": "other tensors" if differs else "accepted", "kernel": kernel, "why": differs}


def main() -> None:
    """Writes the table anew and prints where it disagrees with what the formats say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, help="folder with vLLM's package, unless it is installed")
    parser.add_argument("--needs", type=Path, help="folder with packages that it imports, unless they are installed")
    parser.add_argument("--stub", nargs="+", default=(), help="packages to do without")
    args = parser.parse_args()
    sys.path.extend(str(folder) for folder in (args.vllm, args.needs) if folder)
    # Before any stub: transformers looks for optional packages while it is imported.
    import_module("transformers")
    sys.meta_path.insert(0, Stubs(tuple(args.stub)))
    found = list(rows(Vllm()))
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(found)
    for row in found:
        if row["capability"] == "8.0":
            print(f"{row['format']:20} {row['scheme']:14} {row['result']:14} {row['kernel']:26} {row['said'][:60]}")


if __name__ == "__main__":
    main()
