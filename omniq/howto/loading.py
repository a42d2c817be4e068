"""snippets: how each runtime that loads a checkpoint is told to, from the sentences that its format says of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

PLACE = "PATH_OF_THIS_FOLDER"
REFUSED = re.compile(r": (no|unlikely)\b")
"""How a sentence about a runtime begins that does not, or may not, load a checkpoint."""

TRANSFORMERS = """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")"""
OMNIQ = """import omniq   # its own kernels
model = omniq.load("{place}")"""
GPTQMODEL = """from gptqmodel import GPTQModel
model = GPTQModel.load("{place}")"""
VLLM = "vllm serve {shell}   # on several GPUs: --tensor-parallel-size N"
SGLANG = "python -m sglang.launch_server --model-path {shell}   # on several GPUs: --tp N"
GENERATE = "omniq generate {shell} 'What is the capital of France?'"

CODE = {
    "transformers": (("python", TRANSFORMERS),),
    "vLLM": (("bash", VLLM),),
    "SGLang": (("bash", SGLANG),),
    "gptqmodel": (("python", GPTQMODEL),),
    "omniq": (("python", OMNIQ), ("bash", GENERATE)),
}
"""Runtime -> (language, text) of what to write or type."""


@dataclass(frozen=True)
class Snippet:
    """What to write in Python, or to type in a shell, to load or serve a checkpoint in a runtime."""

    runtime: str
    language: str
    code: str


def runtime_of(sentence: str) -> str:
    """The runtime, or runtimes, that a sentence is about: 'transformers (5.13 or later): yes' -> 'transformers'."""
    return re.split(r":| \(", sentence, maxsplit=1)[0]


def loads(sentence: str) -> bool:
    """Whether a sentence says that its runtime loads the checkpoint."""
    return REFUSED.search(sentence) is None


def snippets(loaders: Sequence[str], place: str = PLACE) -> tuple[Snippet, ...]:
    """What to write for each runtime that loads a checkpoint. loaders: a sentence each. place: its folder or hub id."""
    words = {"place": place, "shell": shlex.quote(place)}
    names = [runtime_of(sentence) for sentence in loaders if loads(sentence)]
    return tuple(
        Snippet(name, language, text.format_map(words)) for name in names for language, text in CODE.get(name, ())
    )
