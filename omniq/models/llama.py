"""Llama and the models that share its block: SmolLM, Mistral, Qwen 2 (its q, k, v biases need nothing special)."""

from omniq.models.adapter import ADAPTERS, Adapter, GatedBlock, NormFold, Part, QueryKeyFold, Stream, UpFold, ValueFold

ADAPTERS.add("llama")(
    Adapter(
        model_types=("llama", "mistral", "qwen2"),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_proj"), Part("self_attn.k_proj")),
            UpFold(Part("mlp.up_proj"), "mlp.down_proj"),
        ),
        gated=GatedBlock(),
        stream=Stream(("self_attn.o_proj", "mlp.down_proj")),
    )
)
