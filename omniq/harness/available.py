"""Whether lm-evaluation-harness is installed, asked before any module that imports it is."""

from __future__ import annotations

from importlib.util import find_spec

from omniq.errors import UnsupportedError

PACKAGES = ("lm_eval", "accelerate")


def check_lm_eval() -> None:
    """Raises UnsupportedError, naming what to install, unless lm-eval can run Hugging Face models here."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UnsupportedError(
                f"tasks of lm-evaluation-harness need the package {package}; "
                "install it with: pip install 'omniq[lm-eval]'"
            )
