"""Phi 1, 1.5 and 2: attention and MLP read the same norm; GELU lies between fc1 and fc2, so no scale passes there."""

from omniq.models.adapter import ADAPTERS, MEAN_SUBTRACTED, Adapter, NormFold, Part, QueryKeyFold, ValueFold

ADAPTERS.add("phi")(
    Adapter(
        model_types=("phi",),
        blocks="model.layers",
        folds=(
            NormFold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")),
            ValueFold(Part("self_attn.v_proj"), "self_attn.dense"),
            QueryKeyFold(Part("self_attn.q_proj"), Part("self_attn.k_proj")),
        ),
        when=(("qk_layernorm", False),),
        stream=MEAN_SUBTRACTED,
    )
)
