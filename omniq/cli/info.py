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

Verify = Annotated[bool, typer.Option("--verify", help="Read every weight and compare it with SHA256SUMS.")]


def command(checkpoint: MaybeCheckpoint = None, verify: Verify = False, as_json: o.Json = False) -> None:
    """Show what a checkpoint holds; without one, versions, processors and kernels of this machine."""
    from omniq.cli.render import flat, print_json, print_pairs
    from omniq.errors import UsageError
    from omniq.eval.size import human_bytes
    from omniq.source import checked_folder
    from omniq.sums import check_sums

    if verify and checkpoint is None:
        raise UsageError("--verify is for a checkpoint: omniq info OUT --verify")
    written = {"as_written": check_sums(checked_folder(checkpoint))} if verify else {}
    values = (checkpoint_info(checkpoint) if checkpoint else machine_info()) | written
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
    from omniq.installation.kernels import kernel_states, processors
    from omniq.installation.packages import version

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
