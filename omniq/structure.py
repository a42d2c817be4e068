"""The decoder blocks of a causal LM and their linears, found by structure, so that any architecture quantises."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from omniq.errors import UnsupportedError

ROUTERS = {"router", "gate"}


def blocks_path(model: nn.Module) -> str:
    """Path of the ModuleList of decoder blocks: of the outermost lists, the one that holds most parameters."""
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    outermost = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
    if not outermost:
        raise UnsupportedError(
            f"{type(model).__name__} has no list of decoder blocks, so it cannot be quantised block by block"
        )
    return max(outermost, key=lambda name: sum(param.numel() for param in lists[name].parameters()))


def linears(model: nn.Module, blocks: str, skip: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Full names of the linears of the blocks: (to quantise, in order; left in floating point -> why).

    skip: glob patterns of names inside a block.
    """
    skip = tuple(skip)
    chosen, skipped = [], {}
    for index, block in enumerate(model.get_submodule(blocks)):
        _check_no_fused(block, f"{blocks}.{index}")
        for name, module in block.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            reason = _skip_reason(name, module, skip)
            full = f"{blocks}.{index}.{name}"
            if reason:
                skipped[full] = reason
            else:
                chosen.append(full)
    if not chosen:
        kinds = sorted({type(m).__name__ for m in model.get_submodule(blocks).modules() if "weight" in m._parameters})
        raise UnsupportedError(
            f"the blocks {blocks} of {type(model).__name__} hold no nn.Linear (only {', '.join(kinds)}); "
            "there is nothing omniq can quantise"
        )
    return tuple(chosen), skipped


def _skip_reason(name: str, module: nn.Linear, skip: tuple[str, ...]) -> str | None:
    """Why a linear stays in floating point, or None."""
    if any(fnmatchcase(name, pattern) for pattern in skip):
        return "the architecture's table keeps it in floating point"
    if ROUTERS & set(name.split(".")[-2:]):
        return "it chooses experts, where an error sends a token to other experts altogether"
    if module.out_features == 1:
        return "it has one output, a gate, where quantising costs accuracy and saves nothing"
    return None


def _check_no_fused(block: nn.Module, place: str) -> None:
    """Raises UnsupportedError when weights of linear layers hide in a 3-D parameter, which would stay unquantised."""
    for name, module in block.named_modules():
        if type(module).__module__.startswith("torch.nn"):
            continue
        for leaf, param in module.named_parameters(recurse=False):
            if param.dim() == 3 and leaf.endswith("proj"):
                raise UnsupportedError(
                    f"{place}.{name} ({type(module).__name__}) keeps its experts in one tensor {leaf} of shape "
                    f"{tuple(param.shape)}, in a layout that omniq cannot take apart"
                )
