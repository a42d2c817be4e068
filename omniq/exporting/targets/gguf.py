"""One GGUF file with the same integers, for llama.cpp."""

from __future__ import annotations

from pathlib import Path

from omniq.events import Listener
from omniq.exporting.base import TARGETS, Choices
from omniq.exporting.origin import Origin
from omniq.exporting.telling import Told
from omniq.gguf.saying import loaders, nbytes, why_not

NAME = "gguf"


class Gguf:
    """The target that writes a GGUF file. What it is made of needs the package gguf and is imported when used."""

    summary = "one GGUF file with the same integers, in blocks that hold them exactly"
    loaders = "llama.cpp and what is built on it, transformers"
    suffix = ".gguf"
    dtypes = ()

    def refuse(self, origin: Origin, choices: Choices) -> str | None:
        """Why no GGUF file holds the checkpoint exactly, or None."""
        return why_not(origin)

    def loaded_by(self, origin: Origin) -> tuple[str, ...]:
        """The runtimes that load the result, one sentence each."""
        return loaders(origin)

    def nbytes(self, origin: Origin, choices: Choices) -> int:
        """Bytes of weights in the result."""
        return nbytes(origin)

    def write(self, origin: Origin, result: Path, choices: Choices, on_event: Listener) -> tuple[str, ...]:
        """Writes the file; the sentences say what llama.cpp does otherwise."""
        from omniq.gguf.writing import write_gguf

        told = Told(origin, on_event, f"{origin.format} to {NAME}")
        return write_gguf(origin, result, on_layer=told)

    def verify(self, origin: Origin, result: Path, choices: Choices) -> None:
        """Decodes every block with the gguf package and compares it with the checkpoint's integers."""
        from omniq.gguf.reading import check_gguf

        check_gguf(origin, result)


TARGETS.add(NAME)(Gguf())
