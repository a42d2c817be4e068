"""Saying: why a checkpoint cannot be said in GGUF, which runtimes load one that can, and how large it becomes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from omniq.errors import UnsupportedError
from omniq.gguf.architectures import architecture_for, unsaid
from omniq.gguf.blocks import refusal
from omniq.gguf.vocabulary import vocabulary
from omniq.hf import load_tokenizer
from omniq.spec import LinearSpec

PACKAGE = "gguf"


def why_not(checkpoint: Any) -> str | None:
    """Why the checkpoint cannot be a GGUF file, or None; from its config, specs and shapes.

    checkpoint: a Checkpoint of tensors.py, which is not imported here because it needs the package gguf.
    """
    model = checkpoint.model
    if find_spec(PACKAGE) is None:
        return "writing GGUF needs the package gguf, which is not installed; run: pip install omniq[gguf]"
    if reason := unsaid(model.config.to_dict()):
        return reason
    if checkpoint.attention is not None:
        return f"{checkpoint.attention.said}, which GGUF cannot say"
    for layer in checkpoint.layers:
        if layer.spec != LinearSpec(layer.spec.weight):
            return f"{layer.name} as {layer.spec}: GGUF holds weights alone and says nothing of what enters a layer"
        if reason := refusal(layer.spec.weight, layer.shape[1]):
            return f"{layer.name} as {layer.spec}: {reason}"
    tables = checkpoint.stored_tables
    for module, place in tables.places.items():
        if reason := refusal(place.spec.weight, tables.shape(module)[1]):
            return f"{module} as {place.spec}: {reason}"
    return _unplaced(checkpoint)


def _unplaced(checkpoint: Any) -> str | None:
    """Why one of its tensors or its tokenizer has no place in the file, or None."""
    from omniq.gguf.tensors import stored

    try:
        stored(checkpoint)
        vocabulary(load_tokenizer(checkpoint.model.folder), checkpoint.model.config.vocab_size)
    except UnsupportedError as error:
        return str(error)
    return None


def nbytes(checkpoint: Any) -> int:
    """Bytes of the tensors in the file."""
    from omniq.gguf.tensors import stored

    return sum(tensor.nbytes for tensor in stored(checkpoint))


def loaders(checkpoint: Any) -> tuple[str, ...]:
    """The runtimes that load the file, one sentence each."""
    mixture = architecture_for(checkpoint.model.config.to_dict()).experts
    return (
        "transformers: no, its reader of GGUF files takes the sizes of experts from elsewhere than the file."
        if mixture
        else "transformers: yes (from_pretrained(FOLDER, gguf_file=NAME), with the package gguf); the weights are "
        "expanded to full precision in memory.",
        "llama.cpp and what is built on it (llama-cpp-python, Ollama, LM Studio): yes; it rounds the input of each "
        "linear to 8 bits while it multiplies.",
        "vLLM: only through a plugin that is not part of it (not run).",
        f"omniq: {'' if mixture else 'omniq quantize takes it as a model; '}omniq.load wants the checkpoint it was "
        "made of.",
    )
