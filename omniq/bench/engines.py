"""Whole models as something that reads a prompt and writes one token after another, greedily."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from omniq import hf, runtime
from omniq.errors import ModelError
from omniq.source import checked_folder

LLAMA = "llama_cpp"


class Engine(Protocol):
    """One model, loaded."""

    kernels: str
    """What multiplies by its weights, in words."""

    vocabulary: int
    """Token ids are below it."""

    def prefill(self, ids: Sequence[int]) -> None:
        """Reads a prompt from an empty cache and chooses the first token after it."""

    def step(self) -> None:
        """Reads the token chosen last and chooses the next."""


class TorchEngine:
    """A model of transformers, or of omniq.load, through its forward with a cache of keys and values."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        kernels: str = "torch",
        new_cache: Callable[[], Any] = lambda: None,
    ) -> None:
        """new_cache: an empty cache for a prompt; None lets the model make its own."""
        self.model, self.device, self.kernels, self.new_cache = model, device, kernels, new_cache
        self.vocabulary = model.config.get_text_config().vocab_size
        # Without it some models compute the logits of the whole prompt, which generate() does not ask for.
        known = inspect.signature(model.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def prefill(self, ids: Sequence[int]) -> None:
        """ids: T tokens."""
        self.cache = self.new_cache()
        self.token = torch.tensor([ids], device=self.device)
        self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """One forward, and the likeliest token; waits until it is there."""
        out = self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True, **self.last_only)
        self.cache, self.token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class LlamaEngine:
    """llama.cpp through the package llama_cpp. It is given the next token, so that choosing one costs it nothing."""

    kernels = "llama.cpp"

    def __init__(self, file: Path, context: int, threads: int) -> None:
        from llama_cpp import Llama

        settings = {"n_ctx": context, "n_batch": context, "n_threads": threads, "n_threads_batch": threads}
        self.llama = Llama(model_path=str(file), verbose=False, **settings)
        self.vocabulary = self.llama.n_vocab()

    def prefill(self, ids: Sequence[int]) -> None:
        """ids: T tokens."""
        self.llama.reset()
        self.llama.eval(list(ids))
        self.token = ids[-1]

    def step(self) -> None:
        """One token after those read so far."""
        self.llama.eval([self.token])


def packed_engine(
    folder: Path, activations: str, embed_bits: int, dtype: torch.dtype | None, device: torch.device
) -> TorchEngine:
    """A quantised checkpoint on omniq's kernels."""
    model = runtime.load(folder, device, dtype, activations=activations, embed_bits=embed_bits)
    return TorchEngine(model, device, runtime.kernels_in_words(model), lambda: hf.growing_cache(model.config))


def dense_engine(folder: Path, dtype: torch.dtype, device: torch.device) -> TorchEngine:
    """The original in plain transformers."""
    return TorchEngine(hf.load_dense(checked_folder(folder), dtype).to(device), device)


def llama_refusal(file: Path) -> str | None:
    """Why llama.cpp does not run the file, or None."""
    if find_spec(LLAMA) is None:
        return "needs the package llama_cpp, which is not installed; run: pip install llama-cpp-python"
    return None if file.is_file() else f"{file} is not a file; give the model as GGUF"


def llama_engine(file: Path, context: int, threads: int) -> LlamaEngine:
    """A GGUF file on llama.cpp."""
    try:
        return LlamaEngine(file, context, threads)
    except ValueError as error:
        raise ModelError(f"llama.cpp cannot load {file}: {error}") from None
