"""Imports point down, absolutely: read from the syntax tree of every file, so that a lazy import counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"omniq": "omniq", "kernels": "omniq.kernels", "calibrate": "omniq.calibrate"}

# Lowest first. A module imports from lower layers and from its own unit (the name after 'omniq.'), nothing else.
LAYERS = (
    ("errors",),
    ("registry", "spec", "text", "events", "recipes", "strict_yaml", "differences"),
    ("qtensor", "header", "gguf_header", "origins", "knowledge", "page", "folder_lock"),
    ("grid", "checkpoint", "source", "digests", "hadamard", "progress"),
    ("kernels", "formats", "models", "shards", "attention", "structure", "experts", "timing", "memory", "devices"),
    ("calibrate", "nn", "eval", "hf", "sealed", "sums"),
    ("stored_streams",),
    ("recipe", "report", "assemble", "work", "decoding", "vocab"),
    ("mixed", "rotation", "precision", "packed", "finishing", "gguf", "howto", "choices"),
    ("costs", "reporting"),
    ("footprint",),
    ("card", "planning", "verification", "runtime", "demo"),
    ("made",),
    ("job", "bench", "subject", "harness", "transformers", "evaluation", "push", "recording", "arguments"),
    ("pipeline", "unlearn", "exporting"),
    ("audit", "api", "installation"),
    ("cli",),
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}

# Lower, yet not allowed: calibration and evaluation know nothing of how weights are stored or computed with.
APART = {
    "calibrate": {"kernels", "formats", "checkpoint", "shards", "header"},
    "eval": {"kernels", "formats", "models", "checkpoint", "shards", "header"},
    "kernels": {"header", "checkpoint"},
    "formats": {"header", "checkpoint"},
}

# Packages that only some units may import.
ONLY = {
    "transformers": {"hf"},
    "typer": {"cli"},
    "click": {"cli"},
    "triton": {"kernels"},
    "matplotlib": {"bench", "audit", "page", "reporting"},
    "lm_eval": {"harness"},
    "llama_cpp": {"bench"},
    "gguf": {"gguf"},
}
WITHOUT_TORCH = {"errors", "registry", "spec", "text", "events", "models", "recipe", "report", "knowledge", "recipes"}


def unit(module: str) -> str:
    """'omniq.models.llama' -> 'models'; 'omniq' -> 'omniq'."""
    return [*module.split("."), "omniq"][1] if module != "omniq" else "omniq"


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; a relative one is given with its leading dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module == "omniq":
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            yield from ((node.lineno, f"omniq.{name}") for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module


def at_run_time(tree: ast.Module) -> ast.Module:
    """The module without what only type checkers read: the blocks `if TYPE_CHECKING`."""
    said = lambda node: isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"  # noqa: E731
    return ast.Module([node for node in tree.body if not said(node)], [])


def objection(module: str, target: str) -> str | None:
    """Why `module` must not import `target`, or None."""
    here, top = unit(module), target.split(".")[0]
    if target.startswith("."):
        return "relative imports only resolve after installation; write from omniq..."
    if top in ("kernels", "calibrate"):
        return f"write omniq.{target}"
    if top in ONLY and here not in ONLY[top]:
        return f"{top} belongs to {', '.join(sorted(ONLY[top]))} alone"
    if top == "torch" and here in WITHOUT_TORCH:
        return "this module works without torch"
    if top != "omniq" or target == "omniq" or unit(target) == here:
        return None
    there = unit(target)
    if there not in LEVEL:
        return f"{there} has no layer; give it one in LAYERS"
    if LEVEL[there] >= LEVEL[here]:
        return f"{there} (layer {LEVEL[there]}) is not below {here} (layer {LEVEL[here]})"
    return f"{here} and {there} are kept apart" if there in APART.get(here, ()) else None


def violations(module: str, source: str) -> list[str]:
    """One sentence per import of `source` that `module` must not make."""
    if module == "omniq":
        imports = imported(at_run_time(ast.parse(source)))
        names = [name for _, name in imports if name.split(".")[0] not in sys.stdlib_module_names]
        return [f"omniq imports {name}: importing omniq must import nothing" for name in names]
    if unit(module) not in LEVEL:
        return [f"{module} has no layer; give {unit(module)} one in LAYERS"]
    found = ((line, target, objection(module, target)) for line, target in imported(ast.parse(source)))
    return [f"{module}:{line} imports {target}: {reason}" for line, target, reason in found if reason]


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the package."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


@pytest.mark.parametrize(("module", "path"), [pytest.param(*pair, id=pair[0]) for pair in modules()])
def test_a_module_imports_only_what_lies_below_it(module: str, path: Path) -> None:
    assert violations(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("omniq.kernels.reference", "import transformers", "hf alone"),
        ("omniq.kernels.reference", "from transformers.utils import logging", "hf alone"),
        ("omniq.calibrate.view", "from omniq.formats.base import FORMATS", "kept apart"),
        ("omniq.calibrate.view", "def f():\n    from omniq.kernels.dispatch import select", "kept apart"),
        ("omniq.calibrate.view", "from omniq.nn import QuantLinear", "not below"),
        ("omniq.formats.base", "from omniq.kernels.dispatch import KERNELS", "not below"),
        ("omniq.models.llama", "import torch", "without torch"),
        ("omniq.models.llama", "from torch import Tensor", "without torch"),
        ("omniq.spec", "from omniq.qtensor import QTensor", "not below"),
        ("omniq.spec", "from omniq import qtensor", "not below"),
        ("omniq.kernels.reference", "from kernels.dispatch import KERNELS", "write omniq.kernels"),
        ("omniq.kernels.reference", "from .dispatch import KERNELS", "relative"),
        ("omniq.kernels.reference", "from .. import grid", "relative"),
        ("omniq.pipeline", "import omniq.cli.app", "not below"),
        ("omniq.eval.kl", "from omniq.novelty import thing", "no layer"),
        ("omniq.novelty", "import json", "no layer"),
        ("omniq", "import torch", "must import nothing"),
        ("omniq", "from omniq.runtime import load", "must import nothing"),
        ("omniq", "if not TYPE_CHECKING:\n    from omniq.runtime import load", "must import nothing"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, word: str) -> None:
    (sentence,) = violations(module, source)
    assert sentence.startswith(module)
    assert word in sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("omniq.hf", "import transformers"),
        ("omniq.pipeline", "from omniq import __version__"),
        ("omniq.calibrate.view", "from omniq.calibrate.stats import Hessian\nfrom omniq.models.adapter import Adapter"),
        ("omniq.cli.app", "def f():\n    from omniq.pipeline import quantize"),
        ("omniq.grid", "import torch\nfrom omniq.qtensor import QTensor"),
        ("omniq", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from omniq.runtime import load"),
    ],
)
def test_an_import_that_points_down_is_accepted(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize(
    "statement",
    ["import omniq", "import omniq.errors, omniq.registry, omniq.spec", "import omniq.models.llama"],
)
def test_the_light_modules_load_neither_torch_nor_transformers(statement: str, tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'accelerate'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
