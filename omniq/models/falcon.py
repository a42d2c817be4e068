"""Falcon: one model type with four blocks. q, k and v lie in one linear layer, grouped by KV head in all of them
(7B: one group; RW: as many groups as heads); what differs is which norm feeds which linear layer."""

from omniq.models.adapter import ADAPTERS, MEAN_SUBTRACTED, Adapter, Fold, NormFold, Part, QueryKeyFold, ValueFold

QKV, UP = "self_attention.query_key_value", "mlp.dense_h_to_4h"
ATTENTION: tuple[Fold, ...] = (
    ValueFold(Part(QKV, "v", "grouped"), "self_attention.dense"),
    QueryKeyFold(Part(QKV, "q", "grouped"), Part(QKV, "k", "grouped")),
)
SHARED_NORM: tuple[Fold, ...] = (NormFold("input_layernorm", (QKV, UP)), *ATTENTION)
OLD = (("new_decoder_architecture", False),)
NEW = (("new_decoder_architecture", True),)

ADAPTERS.add("falcon")(
    Adapter(
        model_types=("falcon",),
        blocks="transformer.h",
        folds=(NormFold("ln_attn", (QKV,)), NormFold("ln_mlp", (UP,)), *ATTENTION),
        when=(*NEW, ("num_ln_in_parallel_attn", 2), ("alibi", False)),
        stream=MEAN_SUBTRACTED,
    )
)
ADAPTERS.add("falcon-11b")(
    Adapter(
        model_types=("falcon",),
        blocks="transformer.h",
        folds=SHARED_NORM,
        when=(*NEW, ("num_ln_in_parallel_attn", 1), ("parallel_attn", True), ("alibi", False)),
        stream=MEAN_SUBTRACTED,
    )
)
ADAPTERS.add("falcon-7b")(
    Adapter(
        model_types=("falcon",),
        blocks="transformer.h",
        folds=SHARED_NORM,
        when=(*OLD, ("parallel_attn", True), ("alibi", False)),
        stream=MEAN_SUBTRACTED,
    )
)
ADAPTERS.add("falcon-rw")(
    Adapter(
        model_types=("falcon",),
        blocks="transformer.h",
        folds=(NormFold("input_layernorm", (QKV,)), NormFold("post_attention_layernorm", (UP,)), *ATTENTION),
        rotary="none",
        when=(*OLD, ("parallel_attn", False), ("alibi", True)),
        stream=MEAN_SUBTRACTED,
    )
)
