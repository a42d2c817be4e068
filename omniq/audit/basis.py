"""Whether two models keep what they know along the same directions, so that one can read the other's states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omniq.subject.model import Subject

LEAST_COSINE = 0.5
"""Between the mean-free inputs of the first block; fine-tuning and quantising leave it near 1, a rotation near 0."""

LOOKED_AT = 16


def foreign(subject: Subject, original: Subject, prompts: Sequence[str]) -> str:
    """Why states of `subject` mean nothing to `original` or to what was trained on it; '' where they do."""
    shapes = [(len(one.blocks), one.model.get_input_embeddings().embedding_dim) for one in (subject, original)]
    if shapes[0] != shapes[1]:
        (blocks, width), (other_blocks, other_width) = shapes
        return (
            f"{subject.label} has {blocks} blocks of width {width}, {original.label} {other_blocks} of {other_width}; "
            "only states of the same shape can be compared"
        )
    ids = [[subject.start(prompt)] for prompt in prompts[:LOOKED_AT]]
    own, other = (
        torch.cat([one.hidden(torch.tensor(row, device=one.device))[0][0].float().cpu() for row in ids])
        for one in (subject, original)
    )
    cosine = torch.nn.functional.cosine_similarity(own - own.mean(0), other - other.mean(0)).mean().item()
    # Not 'less than': a cosine of numbers that are none is none either.
    if not cosine >= LEAST_COSINE:
        return (
            f"{subject.label} and {original.label} keep their states along other directions (cosine {cosine:.2f} at "
            "the input of the first block); only models made from the same weights, not rotated, can be compared"
        )
    return ""
