"""Writing: a quantised checkpoint as one GGUF file, a tensor in memory at a time."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from omniq import __version__
from omniq.errors import OutputError
from omniq.gguf.architectures import Architecture, architecture_for
from omniq.gguf.metadata import Metadata, general, sizes, window
from omniq.gguf.tensors import Checkpoint, Stored, stored
from omniq.gguf.vocabulary import vocabulary
from omniq.hf import load_tokenizer

FILE_TYPES = {"Q3_K": "MOSTLY_Q3_K_S", "Q4_K": "MOSTLY_Q4_K_S"}
"""llama.cpp's names of files by the blocks of most weights, where they are more than MOSTLY_ and the block."""
WASTE = 1.25
"""Bits per weight over the grid's own from which the user is told."""


def write_gguf(
    checkpoint: Checkpoint, path: Path, on_layer: Callable[[Any], None] = lambda layer: None
) -> tuple[str, ...]:
    """Writes the file `path` and returns what the user should know of it, a sentence each.

    on_layer: hears of each finished linear. UnsupportedError names a tensor with a scale that no block holds.
    """
    model, values = checkpoint.model, checkpoint.model.config.to_dict()
    known = architecture_for(values)
    tensors = stored(checkpoint)
    words, notes = vocabulary(load_tokenizer(model.folder), values["vocab_size"])
    scheme = ", ".join(dict.fromkeys(str(layer.spec) for layer in checkpoint.layers))
    name = str((model.raw.get("omniq") or {}).get("base_model") or model.folder.name)
    facts = general(name, file_type(tensors), __version__, scheme) | sizes(values, known) | words
    try:
        _write(path, known.name, facts, tensors, on_layer)
    except OSError as failure:
        # What numpy could write in part only has no number of its own.
        raise OutputError(f"cannot write {path}: {failure.strerror or 'the disk is full'}") from None
    span = _window_note(values, known)
    return (*notes, *([span] if span else []), *waste(tensors))


def file_type(tensors: tuple[Stored, ...]) -> int:
    """llama.cpp's number for a file whose linears are mostly what these are."""
    counts = Counter()
    for tensor in tensors:
        if tensor.layers:
            counts[tensor.kind] += math.prod(tensor.shape)
    kind = counts.most_common(1)[0][0]
    return int(gguf.LlamaFileType[FILE_TYPES.get(kind, f"MOSTLY_{kind}")])


def waste(tensors: tuple[Stored, ...]) -> tuple[str, ...]:
    """A sentence for each grid that takes far more bits in the file than it has."""
    found = {}
    for tensor in tensors:
        if not tensor.layers:
            continue
        layer, bits = tensor.layers[0], tensor.block.bits_per_weight
        spec = layer.spec.weight
        if bits > WASTE * (spec.bits + 16 / spec.width(tensor.shape[-1])):
            found[str(layer.spec)] = (
                f"{layer.spec} is stored in {tensor.kind} blocks of {bits:g} bits per weight, since GGUF has no "
                f"smaller block for this grid{_smaller(spec.bits)}"
            )
    return tuple(found.values())


def _smaller(bits: int) -> str:
    return "" if bits not in (2, 3) else "; groups of 256, symmetric, take 2.6 bits at 2 and 3.4 at 3"


def _window_note(values: Mapping[str, Any], known: Architecture) -> str | None:
    span = window(values, known)
    return span and (
        f"the model looks back over {span} tokens, and llama.cpp over all in this architecture: they compute the same "
        f"up to {span} tokens, which the file gives as the length of its context"
    )


def _write(
    path: Path, architecture: str, facts: Metadata, tensors: tuple[Stored, ...], on_layer: Callable[[Any], None]
) -> None:
    """Writes the file and waits until it is on disk."""
    writer = gguf.GGUFWriter(path, architecture)
    try:
        for key, value in facts.items():
            _add(writer, key, value)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.kind]
            # Told a dtype other than uint8 the writer takes the shape as one of values, not of bytes.
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor.data().numpy())
            for layer in tensor.layers:
                on_layer(layer)
        writer.flush()
        for file in writer.fout:
            os.fsync(file.fileno())
    finally:
        writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One key with the type that llama.cpp expects of such a value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
