"""omniquant: learnable weight clipping and equivalent transformations trained jointly, block by block."""

from __future__ import annotations

from dataclasses import dataclass

from omniq.calibrate.method import METHODS
from omniq.calibrate.pieces.block import LearnableBlock
from omniq.calibrate.pieces.grids import GRIDS
from omniq.calibrate.pieces.let import LetSpec, Transform, parameters_of, statistics, transforms
from omniq.calibrate.training import Training, minimize
from omniq.calibrate.view import BlockView
from omniq.errors import UsageError
from omniq.models.adapter import Adapter
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec


@METHODS.add("omniquant")
@dataclass(frozen=True)
class OmniQuant:
    """OmniQuant (Shao et al., arXiv:2308.13137).

    epochs over the calibration samples per block. clip: 'lwc' (learnable weight clipping), 'step' (learned step sizes)
    or 'none'. let: equivalent transformations; None means with quantised activations (the paper also uses them for
    OPT's weights alone: ask with let=True).
    lwc_lr, let_lr: rates of AdamW. alpha: start of the transformations (0.5 balances activations and weights).
    aug_loss: also match the original block on quantised inputs; None means where a linear has 2 bits.
    skip_sinks: keep attention-sink tokens, whose huge hidden states can be most of the loss, out of it; the paper
    counts them.
    """

    epochs: int = 20
    clip: str = "lwc"
    let: bool | None = None
    lwc_lr: float = 1e-2
    let_lr: float = 5e-3
    alpha: float = 0.5
    aug_loss: bool | None = None
    skip_sinks: bool = False

    summary = "LWC and LET trained block by block (the paper's recipe): minutes to hours"
    needs_data = True
    finishing = None

    def __post_init__(self) -> None:
        if self.clip not in GRIDS:
            raise UsageError(f"clip is {self.clip!r}; use one of {', '.join(GRIDS)}")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is {self.alpha}; it must be between 0 and 1")
        self.training()

    def training(self) -> Training:
        """The settings of the training loop."""
        return Training(self.epochs, self.lwc_lr, self.let_lr, self.skip_sinks)

    def transforms_weights(self, spec: LinearSpec) -> bool:
        """Whether equivalent transformations are learned for this scheme."""
        return spec.input is not None if self.let is None else self.let

    def refuse(self, spec: LinearSpec, adapter: Adapter | None) -> str | None:
        """Transformations need the architecture's table."""
        if self.transforms_weights(spec) and adapter is None:
            return (
                "equivalent transformations (LET) need a table of this architecture, and omniq/models has none; "
                "add a file there, or quantise without them (--no-let)"
            )
        return None

    def block(self, view: BlockView) -> dict[str, QTensor]:
        """QTensor by linear name; folds the transformations into view.module."""
        specs = list(view.specs.values())
        shift, coarse = specs[0].input is not None, any(spec.weight.bits == 2 for spec in specs)
        params = parameters_of(view.module)
        made = _transforms(view, params, LetSpec(self.alpha, shift=shift)) if self.transforms_weights(specs[0]) else []
        augmented = view.run(view.inputs) if (coarse if self.aug_loss is None else self.aug_loss) else None
        block = LearnableBlock(params, made, {}, view.specs)
        folded = {
            name: tensor.detach() for name, tensor in block.folded().items()
        }  # the same tensors where nothing folds
        block.grids = {
            n: GRIDS[self.clip](folded[n + ".weight"], s.weight, view.storage) for n, s in view.specs.items()
        }
        with view.quantized_activations():
            minimize(view, block, self.training(), augmented)
        final, quantized = block.quantized(view.storage)
        for name, param in view.module.named_parameters():
            param.data.copy_(final[name])
        return quantized


def _transforms(view: BlockView, params: dict, spec: LetSpec) -> list[Transform]:
    """The architecture's transformations, started from the original block's activations."""
    inputs, outputs = statistics(view.adapter, params)
    view.observe(view.inputs, inputs, outputs)
    return transforms(view.adapter, params, view.heads, spec, inputs, outputs)
