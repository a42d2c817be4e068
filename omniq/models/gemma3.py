"""Gemma 3, text: Gemma 2's block with a norm on q and k per head, stored as 1 + weight like every other."""

from omniq.models.adapter import (
    ADAPTERS,
    NORMED_WRITERS,
    Adapter,
    GatedBlock,
    NormFold,
    Part,
    QueryKeyFold,
    UpFold,
    ValueFold,
)

ADAPTERS.add("gemma3")(
    Adapter(
        model_types=("gemma3_text",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_norm"), Part("self_attn.k_norm"), norms=True),
            UpFold(Part("mlp.up_proj"), "mlp.down_proj"),
        ),
        norm_offset=1.0,
        gated=GatedBlock(
            mlp_norm="pre_feedforward_layernorm",
            query_norm="self_attn.q_norm",
            key_norm="self_attn.k_norm",
            attention_output_norm="post_attention_layernorm",
            mlp_output_norm="post_feedforward_layernorm",
        ),
        stream=NORMED_WRITERS,
    )
)
