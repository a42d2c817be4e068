"""GPT-NeoX, Pythia: q, k and v of each head side by side in one linear layer; no scale passes through its GELU."""

from omniq.models.adapter import ADAPTERS, MEAN_SUBTRACTED, Adapter, NormFold, Part, QueryKeyFold, ValueFold

QKV = "attention.query_key_value"

ADAPTERS.add("gpt_neox")(
    Adapter(
        model_types=("gpt_neox",),
        blocks="gpt_neox.layers",
        folds=(
            NormFold("input_layernorm", (QKV,)),
            NormFold("post_attention_layernorm", ("mlp.dense_h_to_4h",)),
            ValueFold(Part(QKV, "v", "heads"), "attention.dense"),
            QueryKeyFold(Part(QKV, "q", "heads"), Part(QKV, "k", "heads")),
        ),
        stream=MEAN_SUBTRACTED,
    )
)
