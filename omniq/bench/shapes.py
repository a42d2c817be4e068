"""SHAPES: the linear layers of real models, as (N, K)."""

from __future__ import annotations

import re

from omniq.errors import UsageError

Shape = tuple[int, int]

SHAPES: dict[str, tuple[Shape, ...]] = {
    "smollm2-135m": ((576, 576), (192, 576), (1536, 576), (576, 1536)),
    "smollm2-1.7b": ((2048, 2048), (8192, 2048), (2048, 8192)),
    "gemma3-270m": ((1024, 640), (256, 640), (640, 1024), (2048, 640), (640, 2048)),
    "gemma3-1b": ((1024, 1152), (256, 1152), (1152, 1024), (6912, 1152), (1152, 6912)),
    "llama2-7b": ((4096, 4096), (11008, 4096), (4096, 11008)),
    "llama3.2-1b": ((2048, 2048), (512, 2048), (8192, 2048), (2048, 8192)),
    "llama3-8b": ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)),
    "llama3-70b": ((8192, 8192), (1024, 8192), (28672, 8192), (8192, 28672)),
    "qwen2.5-0.5b": ((896, 896), (128, 896), (4864, 896), (896, 4864)),
    "qwen2.5-7b": ((3584, 3584), (512, 3584), (18944, 3584), (3584, 18944)),
    "qwen3-8b": ((4096, 4096), (1024, 4096), (12288, 4096), (4096, 12288)),
    "common": ((4096, 4096), (11008, 4096), (14336, 4096), (8192, 8192), (28672, 8192)),
}
DEFAULT: tuple[Shape, ...] = ((4096, 4096), (14336, 4096))


def shape_named(text: str) -> Shape:
    """'4096x14336' -> (4096, 14336), out_features first."""
    match = re.fullmatch(r"([1-9]\d*)[xX×]([1-9]\d*)", text)
    if not match:
        raise UsageError(f"{text!r} is not a shape; write out_features x in_features, for example 14336x4096")
    return int(match[1]), int(match[2])


def shapes_of(model: str) -> tuple[Shape, ...]:
    """The shapes of a model in SHAPES."""
    if model not in SHAPES:
        raise UsageError(f"the shapes of {model!r} are not known; known: {', '.join(SHAPES)}. Or give --shape NxK")
    return SHAPES[model]


def chosen_shapes(texts: list[str], models: list[str]) -> tuple[Shape, ...]:
    """The shapes written out and those of the models named, each once; DEFAULT where neither is given."""
    named = [*map(shape_named, texts), *(shape for model in models for shape in shapes_of(model))]
    return tuple(dict.fromkeys(named)) or DEFAULT
