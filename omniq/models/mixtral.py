"""Mixtral: Mistral's attention; the router and all experts read the norm."""

from omniq.models.adapter import ADAPTERS, Adapter, NormFold, Part, QueryKeyFold, Stream, UpFold, ValueFold

ADAPTERS.add("mixtral")(
    Adapter(
        model_types=("mixtral",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("post_attention_layernorm", ("mlp.gate", "mlp.experts.*.gate_proj", "mlp.experts.*.up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_proj"), Part("self_attn.k_proj")),
            UpFold(Part("mlp.experts.*.up_proj"), "mlp.experts.*.down_proj"),
        ),
        stream=Stream(("self_attn.o_proj", "mlp.experts.*.down_proj")),
    )
)
