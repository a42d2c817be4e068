"""QuantLinear: the torch module of a quantised linear layer, on the kernel that dispatch chooses; and its embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from omniq.hadamard import transformed
from omniq.kernels import cpu_dense, cpu_layout, ops, torch_dequant
from omniq.kernels.dispatch import KERNELS, select
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

PREFIX = "packed_"


class Packed(nn.Module):
    """A quantised weight in a kernel's own layout, held as buffers.

    A cast such as .to(torch.bfloat16) leaves them as they are: a packed integer is no number, and a scale loses digits.
    """

    def __init__(self, packed: dict[str, Tensor], kernel: str, spec: LinearSpec) -> None:
        """packed: as KERNELS[kernel].prepack made it, on the device where it will be used."""
        super().__init__()
        self.kernel, self.spec = kernel, spec
        self.device = next(iter(packed.values())).device
        self.leaves = tuple((name, PREFIX + name) for name in packed)
        for name, tensor in packed.items():
            self.register_buffer(PREFIX + name, tensor)

    def packed(self) -> dict[str, Tensor]:
        """The kernel's own layout of the weight, as its prepack made it."""
        return {name: self._buffers[key] for name, key in self.leaves}

    def weight_nbytes(self) -> int:
        """Bytes that the packed weight takes in memory, scales and zero points included."""
        return sum(self._buffers[key].nbytes for _, key in self.leaves)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        """Moves and casts as torch asks, except that the packed tensors keep their dtypes."""
        kept = {key: self._buffers.pop(key) for _, key in self.leaves}
        super()._apply(fn, recurse)
        for key, tensor in kept.items():
            moved = fn(tensor)
            self._buffers[key] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        return self


class QuantLinear(Packed):
    """y = x @ w.T + bias with a quantised weight (N, K), for inference. The dtype of x decides what is computed."""

    def __init__(
        self,
        q: QTensor,
        spec: LinearSpec,
        bias: Tensor | None = None,
        device: torch.device | str = "cpu",
        approximate: bool = False,
    ) -> None:
        """q (N, K); bias (N,). approximate: admit kernels that round more than `spec` says, for speed."""
        if q.spec != spec.weight:
            raise ValueError(f"the weight is quantised as {q.spec}, the layer is announced as {spec.weight}")
        place = torch.device(device)
        kernel = select(spec, q.shape, place, approximate)
        packed = {name: tensor.to(place) for name, tensor in KERNELS[kernel].prepack(q, spec).items()}
        super().__init__(packed, kernel, spec)
        self.out_features, self.in_features = q.shape
        self.register_buffer("bias", None if bias is None else bias.detach().to(place))
        self.register_buffer("order", None if q.order is None else q.order.to(place))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N) in x.dtype."""
        # A decoding step calls this some hundred times for little work each, so every microsecond here is seen:
        # buffers are read from their dict, since an attribute that is a buffer costs ten times as much.
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(ops.NO_GRADIENTS)
        if x.device != self.device and x.device.type != self.device.type:
            raise RuntimeError(
                f"this QuantLinear is packed for {self.device.type} by the kernel {self.kernel}, but its input is on "
                f"{x.device}; load the model on that device instead of moving it"
            )
        buffers = self._buffers
        packed = {name: buffers[key] for name, key in self.leaves}
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if self.spec.transform is not None:
            rows = transformed(rows)
        if (order := buffers["order"]) is not None:
            rows = rows.index_select(1, order)
        if type(x) is not Tensor or torch.compiler.is_compiling():
            y = ops.traceable(rows, packed, self.kernel, self.spec, self.out_features)
        else:
            y = KERNELS[self.kernel].apply(rows, packed, self.spec)
        if (bias := buffers["bias"]) is not None:
            y.add_(bias)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Shown inside the module's line: sizes, number formats and the kernel in use."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        order = "" if self.order is None else ", act-order"
        return f"{sizes}, {self.spec}, kernel={self.kernel}{order}"


class QuantEmbedding(Packed):
    """ids -> rows of a quantised table (V, D), times the factor by which the architecture scales them."""

    def __init__(
        self,
        packed: dict[str, Tensor],
        kernel: str,
        spec: LinearSpec,
        columns: int,
        dtype: torch.dtype,
        factor: Tensor | None = None,
    ) -> None:
        """packed, kernel: of torch_dequant or of the CPU library; an output head with the same table shares its own.

        columns: D. dtype: of the rows; a cast of the model changes it.
        """
        super().__init__(packed, kernel, spec)
        self.embedding_dim = columns
        self.register_buffer("factor", None if factor is None else factor.detach().clone(), persistent=False)
        self.register_buffer("dtype_of_rows", torch.empty(0, dtype=dtype, device=self.device), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., D)."""
        flat, dtype = ids.reshape(-1), self.dtype_of_rows.dtype
        if self.kernel == "torch_dequant":
            rows = torch_dequant.rows_of(self.packed(), self.spec, flat, self.embedding_dim)
        else:
            rows = cpu_layout.rows_of(self.packed(), self.spec.weight, flat, self.embedding_dim)
        rows = rows.to(dtype).view(*ids.shape, self.embedding_dim)
        return rows if self.factor is None else rows * self.factor.to(dtype)

    def extra_repr(self) -> str:
        """Shown inside the module's line."""
        return f"embedding_dim={self.embedding_dim}, {self.spec}, kernel={self.kernel}"


class DenseHead(nn.Linear):
    """An unquantised output head that shares another's weight: few rows, as in decoding, go to the CPU library."""

    def __init__(self, head: nn.Linear) -> None:
        """Takes over weight and bias as they are, tied to an embedding or not."""
        super().__init__(head.in_features, head.out_features, bias=False, device="meta")
        self.weight, self.bias = head.weight, head.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N)."""
        y = cpu_dense.few_rows(x, self.weight)
        if y is None:
            return super().forward(x)
        return y if self.bias is None else y.add_(self.bias)


def swap_linear(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts `module` in place of the submodule of `model` with this full name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
