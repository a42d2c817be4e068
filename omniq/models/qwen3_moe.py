"""Qwen 3 MoE: Qwen 3's attention; the router and all experts read the norm. Some layers may be dense.

The patterns name the readers of both kinds of layer: mlp.gate (the router), mlp.experts.N.gate_proj, mlp.gate_proj.
"""

from omniq.models.adapter import ADAPTERS, Adapter, NormFold, Part, QueryKeyFold, Stream, UpFold, ValueFold

ADAPTERS.add("qwen3_moe")(
    Adapter(
        model_types=("qwen3_moe",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("post_attention_layernorm", ("mlp.*gate*", "mlp.*up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_norm"), Part("self_attn.k_norm"), norms=True),
            UpFold(Part("mlp.*up_proj"), "mlp.*down_proj"),
        ),
        stream=Stream(("self_attn.o_proj", "mlp.*down_proj")),
    )
)
