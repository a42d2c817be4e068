"""Gemma 2: norms compute (1 + weight) * x. The norms behind attention and MLP feed the residual stream, no linear."""

from omniq.models.adapter import ADAPTERS, NORMED_WRITERS, Adapter, NormFold, Part, QueryKeyFold, UpFold, ValueFold

ADAPTERS.add("gemma2")(
    Adapter(
        model_types=("gemma2",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormFold("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.o_proj"),
            QueryKeyFold(Part("self_attn.q_proj"), Part("self_attn.k_proj")),
            UpFold(Part("mlp.up_proj"), "mlp.down_proj"),
        ),
        norm_offset=1.0,
        stream=NORMED_WRITERS,
    )
)
