"""load: a quantised checkpoint as a Hugging Face causal LM whose linears run on omniq's kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omniq.attention import set_attention
from omniq.calibrate.run import assign
from omniq.decoding import fuse_blocks
from omniq.devices import device_named
from omniq.errors import ModelError, UsageError
from omniq.eval.size import bits_per_weight, checkpoint_bytes
from omniq.formats.base import FORMATS
from omniq.formats.reading import read_linear, really_quantized
from omniq.hf import OpenModel, open_model
from omniq.nn import QuantLinear, swap_linear
from omniq.source import checked_folder, config_values
from omniq.spec import FLOAT_BITS, HeadSpec, LinearSpec
from omniq.vocab.modules import put_tables, quantize_tables
from omniq.vocab.planning import loaders
from omniq.vocab.stored import StoredTables

ACTIVATIONS = ("exact", "int8")


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    activations: str = "exact",
    embed_bits: int = FLOAT_BITS,
    trust_remote_code: bool = False,
) -> nn.Module:
    """The causal LM in the folder `path`, for inference: generate(), forward() as any transformers model.

    device: cpu, cuda, cuda:N, or auto, which takes a GPU where there is one.
    dtype: of activations and unquantised weights; None takes the checkpoint's. Activation grids, also those inside
    attention, are those of calibration. activations: "exact" computes what the scheme says; "int8" admits approximate
    kernels too, which round the input of a linear to 8-bit integers while they multiply, where that is faster.
    embed_bits: 8 or 4 round the embedding table and the output head while they are loaded; 16 leaves them as stored,
    in floating point or in the few bits that omniq quantize gave them.
    trust_remote_code: run the Python code that the folder brings along.
    """
    approximate, place = rounds_activations(activations), torch.device(device_named(str(device)))
    model = open_model(checked_folder(Path(path)), trust_remote_code=trust_remote_code, quantized=True)
    wanted = Wanted(place, dtype or model.dtype, approximate, embed_bits)
    model.skeleton.config.use_cache = True
    return filled(model.skeleton, model, tables_to_read(model, embed_bits), wanted)


@dataclass(frozen=True)
class Wanted:
    """How a checkpoint is to be held. approximate: admit kernels that round activations; embed_bits: as in load."""

    device: torch.device
    dtype: torch.dtype
    approximate: bool
    embed_bits: int


def tables_to_read(model: OpenModel, embed_bits: int) -> StoredTables:
    """The quantised tables of a checkpoint; UsageError when embed_bits asks to round what is rounded already."""
    tables = stored_tables(model)
    if tables.places and embed_bits != FLOAT_BITS:
        raise UsageError(
            f"{model.folder} has its embedding table quantised already ({tables.spec()}), so embed_bits={embed_bits} "
            f"cannot round it anew; leave embed_bits at {FLOAT_BITS}"
        )
    return tables


def filled(target: nn.Module, model: OpenModel, tables: StoredTables, wanted: Wanted) -> nn.Module:
    """`target`, the model's skeleton or one like it, with packed layers and all that was still on meta, made ready."""
    place, dtype, approximate = wanted.device, wanted.dtype, wanted.approximate
    for name, (q, spec) in quantized_linears(model).items():
        bias = f"{name}.bias"
        held = model.skeleton.get_submodule(name).bias is not None
        layer = QuantLinear(q, spec, model.read(bias).to(dtype) if held else None, place, approximate)
        swap_linear(target, name, layer)
    quantized = tables.parameters()
    names = [name for name, param in target.named_parameters() if param.is_meta and name not in quantized]
    assign(target, ((name, model.read(name).to(place, dtype)) for name in names))
    set_attention(target, attention_grid(model))
    if tables.places:
        put_tables(target, tables.read(model.reader), place, approximate, dtype)
    loaded = target.to(place)
    if not tables.places:
        quantize_tables(loaded, wanted.embed_bits, place, approximate)
    loaded.omniq_unfused = fuse_blocks(loaded.get_submodule(model.blocks), model.adapter, loaded.config)
    return loaded


def kernels_of(model: nn.Module) -> list[str]:
    """The kernels that a loaded model's quantised layers run on."""
    return sorted({module.kernel for module in model.modules() if isinstance(module, QuantLinear)})


def kernels_in_words(model: nn.Module) -> str:
    """'cpu, whole blocks', or 'torch_dequant, layer by layer: <why>'."""
    names = ", ".join(kernels_of(model))
    return (
        f"{names}, whole blocks" if model.omniq_unfused is None else f"{names}, layer by layer: {model.omniq_unfused}"
    )


def rounds_activations(activations: str) -> bool:
    """Whether kernels may round activations further than the scheme says."""
    if activations not in ACTIVATIONS:
        raise UsageError(f"activations are {activations!r}; use one of {', '.join(ACTIVATIONS)}")
    return activations != ACTIVATIONS[0]


def attention_grid(model: OpenModel) -> HeadSpec | None:
    """The grid of q, k and v inside attention that omniq recorded in config.json, or None."""
    try:
        recorded = (model.raw.get("omniq") or {}).get("attention")
        return HeadSpec(**recorded) if recorded else None
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"the entry 'omniq' in {model.folder / 'config.json'} is damaged ({error}); copy the checkpoint again"
        ) from None


class quantized_linears:
    """The quantised linears of an opened checkpoint, read one at a time; items() as of a dict."""

    def __init__(self, model: OpenModel) -> None:
        self.model = model
        self.form, self.specs = format_of(model)

    def names(self) -> list[str]:
        """Module names, in the model's order."""
        return [name for name in self.model.linears if self.stored(name) in self.specs]

    def stored(self, name: str) -> str:
        """A module's name in the checkpoint."""
        return self.model.stored_name(f"{name}.weight").removesuffix(".weight")

    def items(self):
        """(module name, (QTensor, spec)), in the model's order."""
        for name in self.names():
            stored = self.stored(name)
            spec = self.specs[stored]
            shape = tuple(self.model.skeleton.get_submodule(name).weight.shape)
            yield name, (read_linear(self.form, self.model.reader, stored, spec, shape), spec)


def format_of(model: OpenModel) -> tuple[Any, dict[str, LinearSpec]]:
    """The format of a checkpoint and the spec of every quantised linear, by its name in the checkpoint."""
    config = model.raw.get("quantization_config")
    if not config:
        raise ModelError(
            f"{model.folder} is not quantised (its config.json has no quantization_config); "
            "load it with transformers, or quantise it first"
        )
    names = tuple(model.stored_name(f"{name}.weight").removesuffix(".weight") for name in model.linears)
    for _, form in FORMATS.items():
        specs = form.parse(config, names)
        if specs is not None:
            return form, really_quantized(form, model.reader, specs)
    known = ", ".join(FORMATS)
    raise ModelError(f"{model.folder} was quantised with method {config.get('quant_method')!r}; omniq reads: {known}")


def stored_tables(model: OpenModel) -> StoredTables:
    """Which of the embedding table and the output head of a quantised checkpoint are quantised, and where they lie."""
    return StoredTables(model, format_of(model)[0], model.raw["quantization_config"])


def forward_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """ids (B, T) -> logits (B, T, V), without gradients or cache."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def forward(ids: Tensor) -> Tensor:
        return model(input_ids=ids.to(device), use_cache=False).logits

    return forward


def info(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds: scheme, bits per weight, size, recipe and measured quality."""
    raw = config_values(checked_folder(Path(path)))
    facts: dict[str, Any] = {
        "path": str(path),
        "model_type": raw.get("model_type"),
        "size": checkpoint_bytes(Path(path)),
    }
    if not raw.get("quantization_config"):
        return facts | {"quantized": False}
    model = open_model(Path(path), quantized=True)
    form, specs = format_of(model)
    sizes, groups = [], {}
    for name, (q, spec) in quantized_linears(model).items():
        sizes.append((q.bits_per_weight(), q.codes.numel()))
        groups.setdefault(str(spec), []).append(name)
    tables = stored_tables(model)
    made = tables.read(model.reader)
    sizes += [(q.bits_per_weight(), q.codes.numel()) for q in {made.embedding, made.head} if q is not None]
    table = tables.spec()
    if table is not None:
        facts["tables"] = str(table)
    return facts | {
        "quantized": True,
        "format": raw["quantization_config"].get("quant_method"),
        "schemes": {scheme: len(names) for scheme, names in groups.items()},
        "bits_per_weight": bits_per_weight(sizes),
        "loaders": loaders(model, form, specs.values(), table, attention_grid(model)) if specs else (),
        "omniq": raw.get("omniq"),
    }
