"""Qwen 2 MoE: Qwen 2's attention; router, experts, the shared expert and its one-output gate read the norm.

The patterns name the readers of sparse and dense layers alike, as in qwen3_moe.py.
"""

from omniq.models.adapter import ADAPTERS, Adapter, NormFold, Part, QueryKeyFold, Stream, UpFold, ValueFold

ADAPTERS.add("qwen2_moe")(
    Adapter(
        model_types=("qwen2_moe",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("post_attention_layernorm", ("mlp.*gate*", "mlp.*up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_proj"), Part("self_attn.k_proj")),
            UpFold(Part("mlp.*up_proj"), "mlp.*down_proj"),
        ),
        skip=("mlp.shared_expert_gate",),
        stream=Stream(("self_attn.o_proj", "mlp.*down_proj")),
    )
)
