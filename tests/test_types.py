"""What users import is typed, and a type checker sees it although importing omniq imports nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="checks types with mypy")

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = (
    "omniq",
    "omniq.api",
    "omniq.arguments",
    "omniq.calibrate.data",
    "omniq.calibrate.method",
    "omniq.errors",
    "omniq.eval.windows",
    "omniq.evaluation",
    "omniq.events",
    "omniq.exporting.base",
    "omniq.formats.base",
    "omniq.hf.memory",
    "omniq.kernels.dispatch",
    "omniq.models.adapter",
    "omniq.qtensor",
    "omniq.recipe",
    "omniq.registry",
    "omniq.report",
    "omniq.spec",
)
# Reading the types of torch and transformers takes most of a minute: without them, whatever they give is Any.
WITHOUT_OTHERS = (
    "--no-site-packages",
    "--ignore-missing-imports",
    "--allow-subclassing-any",
    "--allow-untyped-decorators",
    "--no-warn-return-any",
    "--no-warn-unused-ignores",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds omniq as it is when installed: kernels and calibrate inside."""
    package = tmp_path_factory.mktemp("types") / "site" / "omniq"
    package.mkdir(parents=True)
    for path in (*(ROOT / "omniq").iterdir(), ROOT / "kernels", ROOT / "calibrate"):
        (package / path.name).symlink_to(path)
    return package.parent


def mypy(folder: Path, *words: str) -> tuple[int, str]:
    """(exit code, what mypy says) of checking in `folder` with the project's settings."""
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder.parent / "cache"))
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *settings, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(WITHOUT_OTHERS, id="without the types of other packages"),
        pytest.param((), id="with the types of other packages", marks=pytest.mark.slow),
    ],
)
def test_the_public_modules_are_typed_strictly(flags: tuple[str, ...], installed: Path) -> None:
    modules = [word for name in PUBLIC for word in ("-m", name)]
    assert mypy(installed, *flags, *modules) == (0, "")


SCRIPT = """
import omniq
from omniq.recipe import Recipe

q = omniq.quantize("model", "W4A16g128", data=["a text"], epochs=2)
reveal_type(q)
reveal_type(q.evaluate("text.txt").kl)
recipe: Recipe = q.recipe
omniq.quantize("model", samples="8")
omniq.quantise("model")
"""


def test_a_user_s_script_is_checked_against_the_lazy_names(installed: Path) -> None:
    (installed / "script.py").write_text(SCRIPT, encoding="utf-8")
    code, said = mypy(installed, *WITHOUT_OTHERS, "script.py")
    assert code == 1
    kinds = ["omniq.api.Quantized", "float | None", 'Argument "samples"', 'no attribute "quantise"']
    lines = said.splitlines()
    assert [kind in line for kind, line in zip(kinds, lines, strict=True)] == [True] * len(kinds), said


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "omniq" / "py.typed").is_file()
