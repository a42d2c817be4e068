"""Qwen 3: Llama's block with a norm on q and k per head, which takes the place of the projections in the q/k fold."""

from omniq.models.adapter import ADAPTERS, Adapter, GatedBlock, NormFold, Part, QueryKeyFold, Stream, UpFold, ValueFold

ADAPTERS.add("qwen3")(
    Adapter(
        model_types=("qwen3",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_norm"), Part("self_attn.k_norm"), norms=True),
            UpFold(Part("mlp.up_proj"), "mlp.down_proj"),
        ),
        gated=GatedBlock(query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
        stream=Stream(("self_attn.o_proj", "mlp.down_proj")),
    )
)
