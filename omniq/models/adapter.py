"""Adapter: what omniq must know about one architecture, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omniq.registry import Registry


@dataclass(frozen=True)
class Part:
    """Some output rows of a linear layer, by the name of the layer inside its block.

    part: 'all', or, for a fused layer, which of its members: 'q', 'k', 'v' ('gate', 'up' for a fused MLP input).
    layout: how a fused layer orders its rows:
      'concat'  q rows, then k rows, then v rows (phi-3; also gate then up)
      'heads'   for each head its q, k and v rows (gpt-neox)
      'grouped' for each KV head its q rows, one k head and one v head (falcon)
    """

    name: str
    part: str = "all"
    layout: str = "concat"


@dataclass(frozen=True)
class NormFold:
    """norm -> linears: y = W x(norm). Scale s and, where the norm has a bias, shift d fold into both sides exactly.

    linears: every module that reads the norm's output (glob patterns allowed, whose * also matches dots, so that all
    experts can be named), quantised or not: a router must be listed too.
    """

    norm: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class ValueFold:
    """v projection -> output projection. With grouped KV heads the scale is shared by the heads of a group."""

    v: Part
    o: str


@dataclass(frozen=True)
class QueryKeyFold:
    """q <-> k before rotary embedding: tied over each rotary pair, shared over the heads of a KV group.

    When the architecture normalises q and k per head, `q` and `k` name those norms instead of the projections.
    """

    q: Part
    k: Part
    norms: bool = False


@dataclass(frozen=True)
class UpFold:
    """up -> down across an elementwise product with a gate, or across ReLU (positively homogeneous).

    Names may be glob patterns that match pairwise, in sorted order (experts).
    """

    up: Part
    down: str


Fold = NormFold | ValueFold | QueryKeyFold | UpFold


@dataclass(frozen=True)
class GatedBlock:
    """A block of the form x + o(attention(q, k, v of norm(x))), then x + down(act(gate(norm(x))) * up(norm(x))).

    RMS norms, rotary embedding over the whole head in halves, no capped scores. Names of its norms, None where the
    architecture has none; its linears are self_attn.{q,k,v,o}_proj and mlp.{gate,up,down}_proj. Kernels that do a whole
    block in one call read it.
    """

    mlp_norm: str = "post_attention_layernorm"
    input_norm: str = "input_layernorm"
    query_norm: str | None = None
    key_norm: str | None = None
    attention_output_norm: str | None = None
    mlp_output_norm: str | None = None


@dataclass(frozen=True)
class Stream:
    """A residual stream that an orthogonal matrix may rotate: only RMS norms read it, and linears write it.

    writers: every linear whose output is added to the stream as it is (glob patterns, as in NormFold). final_norm: full
    name of the norm before the output head. The readers inside a block are those of its NormFolds.
    """

    writers: tuple[str, ...]
    final_norm: str = "model.norm"


MEAN_SUBTRACTED = "its norms subtract the mean of the residual stream, which a rotation does not keep"
"""Why an architecture of LayerNorms has no Stream."""

NORMED_WRITERS = "a norm stands between attention or MLP and the residual stream, and its weights do not fold"
"""Why an architecture with norms behind its blocks has no Stream."""


@dataclass(frozen=True)
class Adapter:
    """One architecture. All names are relative to a decoder block unless said otherwise.

    model_types: values of config.model_type it serves. blocks: path of the ModuleList of decoder blocks in the causal
    LM ('model.layers'). folds: the equivalent transforms the block admits. norm_offset: 1.0 where a norm computes
    (1 + weight) * x, as Gemma does. rotary: 'half' where rotary pairs are (d, d + r/2), 'none' without rotary
    embedding; r = head_dim * partial_rotary_factor. skip: glob patterns of linears that stay in floating point.
    when: (config entry, value) pairs that must all hold, where one model type has blocks of several kinds.
    gated: how its block is put together, where it is a gated block. stream: its residual stream, or why that cannot be
    rotated.
    """

    model_types: tuple[str, ...]
    blocks: str
    folds: tuple[Fold, ...]
    norm_offset: float = 0.0
    rotary: str = "half"
    skip: tuple[str, ...] = ()
    when: tuple[tuple[str, Any], ...] = ()
    gated: GatedBlock | None = None
    stream: Stream | str = "its table does not say what writes to the residual stream"

    def serves(self, model_type: str, settings: Mapping[str, Any]) -> bool:
        """Whether the table describes a model of this type with these config entries."""
        return model_type in self.model_types and all(settings.get(key) == value for key, value in self.when)


ADAPTERS: Registry[Adapter] = Registry("architecture table", "omniq.models")


def adapter_for(model_type: str, settings: Mapping[str, Any]) -> Adapter | None:
    """The table for a model type with these config entries, or None: such a model still quantises weight-only."""
    return next((adapter for _, adapter in ADAPTERS.items() if adapter.serves(model_type, settings)), None)
