"""omniq info: what a checkpoint holds, or what this machine can run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from omniq import __version__
from omniq.cli import options as o

PACKAGES = ("torch", "transformers", "safetensors", "compressed-tensors", "triton", "datasets", "pyarrow")

MaybeCheckpoint = Annotated[
    Path | None,
    typer.Argument(metavar="[OUT]", help="Folder that omniq quantize wrote; none: this machine.", show_default=False),
]


def command(checkpoint: MaybeCheckpoint = None, as_json: o.Json = False) -> None:
    """Show what a checkpoint holds; without one, versions, processors and kernels of this machine."""
    from omniq.cli.render import flat, print_json, print_pairs
    from omniq.eval.size import human_bytes

    values = checkpoint_info(checkpoint) if checkpoint else machine_info()
    if as_json:
        return print_json(values)
    if "size" in values:
        values["size"] = human_bytes(values["size"])
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    if plain:
        print_pairs(str(checkpoint or "omniq"), flat(plain))
    for key, value in values.items():
        if isinstance(value, dict):
            print_pairs(key.replace("_", " ").capitalize(), flat(value))


def checkpoint_info(checkpoint: Path) -> dict[str, Any]:
    """What the runtime finds in the folder."""
    from omniq import runtime

    return runtime.info(checkpoint)


def machine_info() -> dict[str, Any]:
    """Versions, processors, and every kernel, format and preset with its state on this machine."""
    from omniq.calibrate.method import METHODS
    from omniq.formats.base import FORMATS

    return {
        "versions": {
            "omniq": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "machine": processors(),
        "kernels": kernel_states(),
        "formats": {name: form.loaders for name, form in FORMATS.items()},
        "presets": {name: method.summary for name, method in METHODS.items()},
    }


def version(package: str) -> str:
    """The installed version, or that there is none."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processors() -> dict[str, Any]:
    """The CPU's instruction set as torch uses it, omniq's native library, threads, and the CUDA devices."""
    import torch

    from omniq.kernels import cuda_library, native

    bfloat16 = "with" if native.cpu_bfloat16() else "without"
    return {
        "cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "CPU library": native.missing() or f"loaded: {native.cpu_isa()}, {bfloat16} bfloat16 instructions",
        "CUDA library": cuda_library.missing() or "loaded",
        "threads": torch.get_num_threads(),
        "cuda devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def kernel_states() -> dict[str, str]:
    """Each kernel: ready, or why it does not run a typical layer (W4A16g128, W4A8; 4096 by 4096) on a device here."""
    import torch

    from omniq.kernels.dispatch import KERNELS
    from omniq.spec import LinearSpec

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    cases = [(LinearSpec.parse(scheme), device) for scheme in ("W4A16g128", "W4A8") for device in devices]
    states = {}
    for name, kernel in KERNELS.items():
        reasons = {
            f"{spec} on {device}": kernel.refuse(spec, (4096, 4096), torch.device(device)) for spec, device in cases
        }
        ready = [case for case, reason in reasons.items() if reason is None]
        refused = "; ".join(f"not {case}: {reason}" for case, reason in reasons.items() if reason)
        states[name] = "; ".join(part for part in ("ready for " + ", ".join(ready) if ready else "", refused) if part)
    return states | {name: f"absent: {reason}" for name, reason in KERNELS.absent.items()}
