"""Plain safetensors: every weight multiplied out, for whatever knows no integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from omniq.assemble import write_folder
from omniq.checkpoint import Reader, without_nan
from omniq.errors import UnsupportedError
from omniq.events import Listener
from omniq.exporting.base import TARGETS, Choices
from omniq.exporting.checking import check_ordinary, differs, same_bits
from omniq.exporting.origin import Layer, Origin
from omniq.exporting.record import export_card, exported_config, finish
from omniq.exporting.rounding import Error, rounded
from omniq.exporting.telling import Told
from omniq.header import TensorInfo
from omniq.qtensor import QTensor
from omniq.shards import Source
from omniq.spec import LinearSpec

NAME = "dense"


class Dense:
    """The target that writes w = (q - z) * s, rounded once to the nearest value of a floating-point type."""

    summary = "plain safetensors, every weight multiplied out and rounded to --dtype"
    loaders = "transformers, vLLM, SGLang, llama.cpp's converter, and whatever loads the original"
    suffix = None
    dtypes = (torch.float32, torch.bfloat16, torch.float16)

    def refuse(self, origin: Origin, choices: Choices) -> str | None:
        """Why the checkpoint is more than its weights, or None."""
        for layer in origin.layers:
            if layer.spec != LinearSpec(layer.spec.weight):
                what = "transforms" if layer.spec.transform else "rounds"
                return f"{layer.name} as {layer.spec}: it {what} its inputs at run time, which plain weights cannot say"
        if origin.attention is not None:
            return f"{origin.attention.said} at run time, which plain weights cannot say"
        return None

    def loaded_by(self, origin: Origin) -> tuple[str, ...]:
        """The runtimes that load the result, one sentence each."""
        return (
            "transformers: yes, as the original.",
            "vLLM: as the original (not run).",
            "SGLang: as the original (not run).",
            "omniq: no, omniq.load wants integers; omniq eval and omniq quantize take it as any model.",
        )

    def nbytes(self, origin: Origin, choices: Choices) -> int:
        """Bytes of weights in the result."""
        size = dtype_of(origin, choices).itemsize
        ordinary = sum(origin.model.reader.info(name).nbytes for name in origin.ordinary())
        return ordinary + size * sum(info.shape[0] * info.shape[1] for _, info, _ in weights(origin, choices))

    def write(self, origin: Origin, result: Path, choices: Choices, on_event: Listener) -> tuple[str, ...]:
        """Writes the folder; the sentence says what rounding did."""
        dtype, error = dtype_of(origin, choices), Error()
        told = Told(origin, on_event, f"{origin.format} to {NAME}, {str(dtype).removeprefix('torch.')}")
        made = (*copied(origin), *weights(origin, choices, error, told))
        config = exported_config(origin, NAME, None, dtype)
        write_folder(result, origin.folder, made, config, choices.max_shard_bytes)
        sentence = error.in_words(dtype)
        finish(result, export_card(origin, NAME, self.loaded_by(origin), False, sentence))
        return (sentence,)

    def verify(self, origin: Origin, result: Path, choices: Choices) -> None:
        """Makes every weight anew and compares it, and every other tensor, with what was written."""
        reader = Reader(result)
        for name, _, make in weights(origin, choices):
            if not same_bits(make(), reader.read(name)):
                raise differs(name)
        check_ordinary(origin, reader)


def dtype_of(origin: Origin, choices: Choices) -> torch.dtype:
    """What the weights become."""
    return choices.dtype or origin.model.dtype


def copied(origin: Origin) -> Iterator[Source]:
    """The tensors that stay as they are."""
    reader = origin.model.reader
    for name in origin.ordinary():
        yield name, reader.info(name), lambda name=name: without_nan(reader.read(name), name)


def weights(
    origin: Origin, choices: Choices, error: Error | None = None, told: Callable[[Layer], None] | None = None
) -> Iterator[Source]:
    """The weights to multiply out, of tables and then of linears. error, told: hear of each as it is made."""
    dtype = dtype_of(origin, choices)
    for module in origin.stored_tables.places:
        name = origin.model.stored_name(f"{module}.weight")
        read = partial(_table, origin, module)
        yield name, TensorInfo(dtype, origin.stored_tables.shape(module)), partial(_made, read, name, dtype, error)
    for layer in origin.layers:
        read, name = partial(origin.weight, layer), f"{layer.stored}.weight"
        make = partial(_made, read, name, dtype, error)
        yield name, TensorInfo(dtype, layer.shape), make if told is None else partial(_told, make, told, layer)


def _table(origin: Origin, module: str) -> QTensor:
    """The embedding table or the output head."""
    tables = origin.tables()
    return tables.embedding if module == origin.stored_tables.embedding else tables.head


def _made(read: Callable[[], QTensor], name: str, dtype: torch.dtype, error: Error | None) -> Tensor:
    """A weight (N, K); UnsupportedError where a value is beyond the dtype."""
    weight = rounded(read(), dtype, error)
    if not torch.isfinite(weight).all():
        raise UnsupportedError(
            f"{name} has values beyond the range of {str(dtype).removeprefix('torch.')}; use --dtype bfloat16 or "
            "float32"
        )
    return weight


def _told(make: Callable[[], Tensor], told: Callable[[Layer], None], layer: Layer) -> Tensor:
    weight = make()
    told(layer)
    return weight


TARGETS.add(NAME)(Dense())
