"""Method: how one decoder block becomes integers. Presets of the command line are methods by name."""

from __future__ import annotations

from dataclasses import Field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from omniq.qtensor import QTensor
from omniq.registry import Registry
from omniq.spec import LinearSpec

if TYPE_CHECKING:
    from omniq.calibrate.endtoend import EndToEnd
    from omniq.calibrate.view import BlockView
    from omniq.models.adapter import Adapter


class Method(Protocol):
    """A frozen dataclass whose fields are the preset's options, registered under the preset's name."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    """What makes it a dataclass."""

    summary: str
    """One line for `omniq list presets`."""

    needs_data: bool
    """False when the method looks at the weights alone."""

    finishing: EndToEnd | None
    """What is tuned end to end after the last block, or None."""

    def refuse(self, spec: LinearSpec, adapter: Adapter | None) -> str | None:
        """Why this preset cannot serve the scheme or the architecture, or None; asked before any weight is read."""

    def block(self, view: BlockView) -> dict[str, QTensor]:
        """Quantises every linear of the block: QTensor by name inside the block. Folds into view.module in place."""


METHODS: Registry[type[Method]] = Registry("preset", "omniq.calibrate.methods")
