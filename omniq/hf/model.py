"""OpenModel: a checkpoint ready to be calibrated, of which only descriptions have been read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from omniq.checkpoint import Reader, without_nan
from omniq.errors import ModelError
from omniq.hf.bounds import check_counts
from omniq.hf.checks import (
    NONSENSE,
    causal_config,
    check_causal,
    check_quantization,
    check_remote_code,
    first_line,
)
from omniq.hf.skeleton import build_skeleton
from omniq.models.adapter import Adapter, adapter_for
from omniq.models.names import stored_names
from omniq.source import config_values
from omniq.structure import blocks_path, linears

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LISTED = 3


@dataclass(frozen=True, eq=False)
class OpenModel:
    """folder, raw: where the checkpoint lies, and its config.json as it stands.

    skeleton: the causal LM in eval mode, parameters on meta in the dtype they are stored in, buffers real on the CPU.
    adapter: the architecture's table or None. blocks: path of the decoder blocks. linears: full names of what to
    quantise, in order; skipped: linears of the blocks left in floating point -> the reason. dtype: what the linears are
    stored in (in a quantised checkpoint, the other weights). tied: the output head is the embedding.
    attention_hook: whether set_attention has an effect. online: linears whose input is transformed at run time.
    """

    folder: Path
    raw: Mapping[str, Any]
    config: Any
    skeleton: nn.Module
    adapter: Adapter | None
    blocks: str
    linears: tuple[str, ...]
    skipped: Mapping[str, str]
    dtype: torch.dtype
    tied: bool
    attention_hook: bool
    reader: Reader = field(repr=False)
    names: Mapping[str, str] = field(repr=False)
    online: frozenset[str] = frozenset()

    def stored_name(self, param: str) -> str:
        """The checkpoint's name for a parameter, or persistent buffer, of the skeleton."""
        return self.names[param]

    def read(self, param: str) -> Tensor:
        """A parameter of the skeleton, as stored; ModelError when it has NaN values."""
        return without_nan(self.reader.read(self.names[param]), self.names[param])

    def has_own_linears(self) -> bool:
        """Whether linears to quantise are of a class of the architecture's own, which reads its weight itself."""
        return any(type(self.skeleton.get_submodule(name)) is not nn.Linear for name in self.linears)

    def dense_linears(self) -> tuple[str, ...]:
        """Modules with a weight (N, K) that are never quantised and not in `skipped`: the output head, routers."""
        known = {*self.linears, *self.skipped}
        return tuple(
            name
            for name, module in self.skeleton.named_modules()
            if name not in known
            and not isinstance(module, nn.Embedding)
            and isinstance(weight := module._parameters.get("weight"), Tensor)
            and weight.dim() == 2
        )


def open_model(folder: Path, *, trust_remote_code: bool = False, quantized: bool = False) -> OpenModel:
    """Opens a model folder; ModelError or UnsupportedError says why it cannot be quantised.

    quantized: admit a quantised checkpoint, where tensors such as X.weight_packed stand in for X.weight; stored_name
    still answers for X.weight, read does not.
    """
    values = config_values(folder)
    check_remote_code(values, folder, trust_remote_code)
    check_causal(values, folder)
    check_quantization(values, folder, quantized)
    check_counts(folder)
    config = causal_config(folder, trust_remote_code)
    skeleton, hook = build_skeleton(config, trust_remote_code=trust_remote_code)
    adapter = adapter_for(config.model_type, config.to_dict())
    blocks = adapter.blocks if adapter else blocks_path(skeleton)
    chosen, skipped = linears(skeleton, blocks, adapter.skip if adapter else ())
    if (folder / "generation_config.json").is_file():
        skeleton.generation_config = _generation_config(folder)
    reader = Reader(folder)
    names = _names(skeleton, _answered(reader.names(), quantized), folder)
    _match(skeleton, reader, names, folder, quantized)
    weights = [names[f"{name}.weight"] for name in chosen]
    dtype = _common_dtype(reader, weights) or _common_dtype(reader, names.values())
    tied = _is_tied(skeleton)
    return OpenModel(
        folder, values, config, skeleton, adapter, blocks, chosen, skipped, dtype, tied, hook, reader, names
    )  # fmt: skip


def _generation_config(folder: Path) -> GenerationConfig:
    """The folder's generation_config.json; ModelError when it makes no sense."""
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except NONSENSE as error:
        raise ModelError(
            f"transformers cannot read {folder / 'generation_config.json'}: {first_line(error)}; copy or remove it"
        ) from None


def _answered(stored: Iterable[str], quantized: bool) -> set[str]:
    """Names a parameter may resolve to: those stored and, when packed tensors stand in for it, a module's weight."""
    own = set(stored)
    return own | {f"{name.rpartition('.')[0]}.weight" for name in own} if quantized else own


def _common_dtype(reader: Reader, names: Iterable[str]) -> torch.dtype | None:
    """The dtype of most of the named tensors that are stored."""
    stored = (reader.info(name).dtype for name in names if name in reader)
    dtypes = Counter(dtype for dtype in stored if dtype in FLOATS)
    return dtypes.most_common(1)[0][0] if dtypes else None


def _is_tied(skeleton: nn.Module) -> bool:
    """Whether the output head and the embedding are one parameter."""
    head = skeleton.get_output_embeddings()
    return head is not None and head.weight is skeleton.get_input_embeddings().weight


def _names(skeleton: nn.Module, available: set[str], folder: Path) -> dict[str, str]:
    """Checkpoint names by name of parameter or persistent buffer; a tied parameter has that of the stored one."""
    params = dict(skeleton.named_parameters(remove_duplicate=False))
    buffers = {name: value for name, value in skeleton.state_dict().items() if name not in params}
    names, missing = stored_names([*params, *buffers], available, skeleton.base_model_prefix)
    stored = {id(params[name]): spelled for name, spelled in names.items() if name in params}
    names |= {name: stored[id(params[name])] for name in missing if name in params and id(params[name]) in stored}
    lost = [name for name in params if name not in names]
    lost += [name for name, value in buffers.items() if name not in names and value.isnan().any()]
    if lost:
        listed = ", ".join(lost[:LISTED]) + (", ..." if len(lost) > LISTED else "")
        raise ModelError(
            f"{folder} lacks {len(lost)} of the tensors its config.json asks for ({listed}); "
            "the copy is incomplete, or it names or groups them in a way that omniq does not know"
        )
    return names


@torch.no_grad()
def _match(skeleton: nn.Module, reader: Reader, names: Mapping[str, str], folder: Path, quantized: bool) -> None:
    """Checks every stored tensor against the skeleton, which takes over its dtype; reads the persistent buffers.

    quantized: admit codes, which have their scales beside them.
    """
    for name, value in skeleton.state_dict(keep_vars=True).items():
        if name not in names or names[name] not in reader:
            continue
        info = reader.info(names[name])
        place = f"tensor {names[name]!r} of {folder}"
        if tuple(info.shape) != tuple(value.shape):
            raise ModelError(
                f"{place} has shape {tuple(info.shape)}, but config.json asks for {tuple(value.shape)}; "
                "config and weights do not belong together"
            )
        if not isinstance(value, nn.Parameter):
            value.copy_(reader.read(names[name]))
            continue
        if quantized and info.dtype == torch.int8 and f"{names[name]}_scale" in reader:
            continue
        if info.dtype not in FLOATS:
            raise ModelError(
                f"{place} is stored as {info.dtype}; expected float32, bfloat16 or float16: give the original model"
            )
        value.data = torch.empty(value.shape, dtype=info.dtype, device="meta")
