"""rtn: round to nearest on each group's range; no data, no training."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.calibrate.method import METHODS
from omniq.calibrate.view import BlockView
from omniq.grid import encode, minmax_grid
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


@METHODS.add("rtn")
@dataclass(frozen=True)
class RTN:
    """Round to nearest."""

    summary = "round to nearest: seconds, no data, the baseline"
    needs_data = False
    finishing = None

    def refuse(self, spec: LinearSpec, adapter: Adapter | None) -> str | None:
        """Serves every scheme and architecture."""

    def block(self, view: BlockView) -> dict[str, QTensor]:
        """QTensor by linear name."""
        quantized = {}
        for name, spec in view.specs.items():
            weight = view.linear(name).weight.detach()
            quantized[name] = encode(weight, *minmax_grid(weight, spec.weight, view.storage), spec.weight, view.storage)
        return quantized
