"""OPT: biases everywhere, learned positions, ReLU, which lets a positive scale pass from fc1 to fc2.

Only with the norm in front (do_layer_norm_before): OPT-350m puts it behind, where its output is also the residual
stream, so nothing folds there. Galactica is an OPT with GELU.
"""

from omniq.models.adapter import ADAPTERS, MEAN_SUBTRACTED, Adapter, NormFold, Part, QueryKeyFold, UpFold, ValueFold

FOLDS = (
    NormFold("self_attn_layer_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    NormFold("final_layer_norm", ("fc1",)),
    ValueFold(Part("self_attn.v_proj"), "self_attn.out_proj"),
    QueryKeyFold(Part("self_attn.q_proj"), Part("self_attn.k_proj")),
)

ADAPTERS.add("opt")(
    Adapter(
        model_types=("opt",),
        blocks="model.decoder.layers",
        folds=(*FOLDS, UpFold(Part("fc1"), "fc2")),
        rotary="none",
        when=(("do_layer_norm_before", True), ("activation_function", "relu")),
        stream=MEAN_SUBTRACTED,
    )
)
ADAPTERS.add("galactica")(
    Adapter(
        model_types=("opt",),
        blocks="model.decoder.layers",
        folds=FOLDS,
        rotary="none",
        when=(("do_layer_norm_before", True), ("activation_function", "gelu")),
        stream=MEAN_SUBTRACTED,
    )
)
