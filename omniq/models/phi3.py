"""Phi 3 and 4: Llama's block with q, k, v in one linear layer and gate, up in another."""

from omniq.models.adapter import ADAPTERS, Adapter, NormFold, Part, QueryKeyFold, Stream, UpFold, ValueFold

ADAPTERS.add("phi3")(
    Adapter(
        model_types=("phi3",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.qkv_proj",)),
            NormFold("post_attention_layernorm", ("mlp.gate_up_proj",)),
            ValueFold(Part("self_attn.qkv_proj", "v"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.qkv_proj", "q"), Part("self_attn.qkv_proj", "k")),
            UpFold(Part("mlp.gate_up_proj", "up"), "mlp.down_proj"),
        ),
        stream=Stream(("self_attn.o_proj", "mlp.down_proj")),
    )
)
