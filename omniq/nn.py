"""QuantLinear: the torch module of a quantised linear layer, on the kernel that dispatch chooses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from omniq.kernels.dispatch import KERNELS, select
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

PREFIX = "packed_"


class QuantLinear(nn.Module):
    """y = x @ w.T + bias with a quantised weight (N, K), for inference.

    The kernel's own layout of the weight is held as buffers. A cast such as .to(torch.bfloat16) leaves them as they
    are (a packed integer is not a number, and a scale loses digits) and casts the bias; x decides what is computed.
    """

    def __init__(
        self, q: QTensor, spec: LinearSpec, bias: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        if q.spec != spec.weight:
            raise ValueError(f"the weight is quantised as {q.spec}, the layer is announced as {spec.weight}")
        place = torch.device(device)
        self.out_features, self.in_features = q.shape
        self.spec = spec
        self.kernel = select(spec, q.shape, place)
        self.device_type = place.type
        packed = KERNELS[self.kernel].prepack(q, spec)
        self.leaves = tuple(packed)
        for name, tensor in packed.items():
            self.register_buffer(PREFIX + name, tensor.to(place))
        self.register_buffer("bias", None if bias is None else bias.detach().to(place))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N) in x.dtype."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(
                "QuantLinear has no gradients; run it under torch.no_grad(), or train the unquantised model"
            )
        if x.device.type != self.device_type:
            raise RuntimeError(
                f"this QuantLinear is packed for {self.device_type} by the kernel {self.kernel}, but its input is on "
                f"{x.device}; load the model on that device instead of moving it"
            )
        packed = {name: self._buffers[PREFIX + name] for name in self.leaves}
        y = KERNELS[self.kernel].apply(x.reshape(-1, self.in_features), packed, self.spec)
        y = y if self.bias is None else y + self.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def weight_nbytes(self) -> int:
        """Bytes that the packed weight takes in memory, scales and zero points included."""
        return sum(self._buffers[PREFIX + name].nbytes for name in self.leaves)

    def extra_repr(self) -> str:
        """Shown inside the module's line: sizes, number formats and the kernel in use."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, {self.spec}, kernel={self.kernel}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        """Moves and casts as torch asks, except that the packed tensors keep their dtypes."""
        kept = {name: self._buffers.pop(PREFIX + name) for name in self.leaves}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            moved = fn(tensor)
            self._buffers[PREFIX + name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        return self


def swap_linear(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts `module` in place of the submodule of `model` with this full name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
