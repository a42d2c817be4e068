"""The options of omniq quantize that make up its recipe: each one's type, help text and panel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from omniq.cli.completion import names_in, one_of, recipe_names
from omniq.cli.options import BITS, DATA, METHOD, option

WBits = Annotated[int | None, option("--wbits", "-w", panel=BITS, default="4", help="Bits of a weight, 2 to 8.")]
AvgBits = Annotated[
    float | None,
    option(
        "--avg-bits",
        panel=BITS,
        default="the same bits everywhere",
        help="Instead of --wbits: choose the bits of each layer by measured sensitivity, so many on average. This "
        "counts the weights' codes; scales come on top, as with --wbits.",
    ),
]
BitsChoices = Annotated[
    str | None,
    option("--bits-choices", panel=BITS, default="2,3,4,8", metavar="A,B,...", help="Bits that --avg-bits mixes."),
]
ABits = Annotated[
    int | None,
    option("--abits", "-a", panel=BITS, default="16", help="Bits of an activation, 2 to 8; 16 leaves them alone."),
]
GroupSize = Annotated[
    int | None,
    option(
        "--group-size", "-g", panel=BITS, default="128", help="Weights that share a scale; -1: one scale per channel."
    ),
]
Symmetric = Annotated[
    bool | None,
    option(
        "--symmetric/--asymmetric",
        panel=BITS,
        default="symmetric",
        help="Asymmetric: each group also has a zero point; fewer runtimes load it.",
    ),
]
ActSymmetric = Annotated[
    bool | None,
    option(
        "--act-symmetric/--act-asymmetric",
        panel=BITS,
        default="symmetric",
        help="The same for activations (with --abits below 16).",
    ),
]
Attention = Annotated[
    bool | None,
    option(
        "--attention/--no-attention",
        panel=BITS,
        default="on",
        help="With --abits below 16, also quantise q, k and v inside attention.",
    ),
]
KvBits = Annotated[
    int | None,
    option(
        "--kv-bits",
        panel=BITS,
        default="16",
        help="Bits of keys and values inside attention, as a cache of few bits holds them: 2 to 8, or 16. Only omniq "
        "rounds them, and computes what such a cache would; its own stays in floating point.",
    ),
]
Rotate = Annotated[
    str | None,
    option(
        "--rotate",
        panel=BITS,
        default="inputs with --abits up to 4, none for rtn, gptq, awq and omniquant",
        metavar="auto|none|fold|online|inputs",
        complete=one_of("auto", "none", "fold", "online", "inputs"),
        help="Spread outliers over all channels first, for few --abits. fold: into the weights, so any runtime loads "
        "the result; a table tied to the head is stored twice. online: also at run time, before the down projection "
        "and on q and k; only omniq loads it. inputs: at run time before every linear, for any architecture.",
    ),
]
SearchClips = Annotated[
    bool | None,
    option(
        "--search-clips/--no-search-clips",
        panel=BITS,
        default="on where --rotate is by default",
        help="With --abits below 16, clip what each linear reads by a ratio found on the calibration data; only omniq "
        "loads the result.",
    ),
]
Format = Annotated[
    str | None,
    option(
        "--format",
        panel=BITS,
        default="compressed-tensors",
        help="Layout of the checkpoint: omniq list formats.",
        complete=names_in("omniq.formats"),
    ),
]
TableBits = Annotated[
    int | None,
    option(
        "--embed-bits",
        panel=BITS,
        default="16",
        help="Bits of the embedding table and the output head: 16, 8 or 4. Fewer runtimes load them: see --dry-run.",
    ),
]
TableGroup = Annotated[
    int | None,
    option(
        "--embed-group-size",
        panel=BITS,
        default="--group-size if it divides a row, else 64, 32 or 128",
        help="Values of a row of that table that share a scale; -1: the whole row.",
    ),
]

Preset = Annotated[
    str | None,
    option(
        "--preset",
        "-p",
        panel=METHOD,
        default="default",
        help="rtn, gptq, awq, omniquant, fast, default or best: omniq list presets.",
        complete=names_in("omniq.calibrate.methods"),
    ),
]
Epochs = Annotated[
    int | None,
    option("--epochs", panel=METHOD, default="20", help="omniquant: passes over the calibration data per block."),
]
BatchSize = Annotated[
    int | None, option("--batch-size", panel=METHOD, default="1", help="Sequences run at a time; more use more memory.")
]
Let = Annotated[
    bool | None,
    option(
        "--let/--no-let",
        panel=METHOD,
        default="on with --abits below 16",
        help="omniquant: learn equivalent transformations between layers.",
    ),
]
LwcLr = Annotated[
    float | None,
    option("--lwc-lr", panel=METHOD, default="0.01", help="omniquant: learning rate of the weight clipping."),
]
LetLr = Annotated[
    float | None,
    option("--let-lr", panel=METHOD, default="0.005", help="omniquant: learning rate of the transformations."),
]
Alpha = Annotated[
    float | None,
    option(
        "--alpha",
        panel=METHOD,
        default="0.5",
        help="omniquant: where the transformations start, from 0 (by weights) to 1 (by activations).",
    ),
]
AugLoss = Annotated[
    bool | None,
    option(
        "--aug-loss/--no-aug-loss",
        panel=METHOD,
        default="on with --wbits 2",
        help="omniquant: also match the original block on quantised inputs.",
    ),
]
Set = Annotated[
    list[str] | None,
    option(
        "--set", panel=METHOD, metavar="KEY=VALUE", help="Any option of the preset, such as damp=0.05 (repeatable)."
    ),
]
Config = Annotated[
    Path | None,
    option(
        "--config",
        panel=METHOD,
        metavar="NAME|FILE",
        help="A recipe that comes with omniq (omniq list recipes) or a YAML file; options given here win over it.",
        complete=recipe_names,
    ),
]

Calib = Annotated[
    str | None,
    option(
        "--calib",
        "-c",
        panel=DATA,
        default="self",
        help="self (the model writes the text), a .txt, .jsonl or .parquet file, or a hub data set ID[:CONFIG].",
    ),
]
Samples = Annotated[int | None, option("--samples", panel=DATA, default="128", help="Number of sequences.")]
Length = Annotated[int | None, option("--length", panel=DATA, default="2048", help="Tokens per sequence.")]
Seed = Annotated[int | None, option("--seed", panel=DATA, default="0", help="Seed of everything random.")]
Split = Annotated[str | None, option("--split", panel=DATA, default="train", help="Split of a hub data set.")]
Column = Annotated[
    str | None, option("--column", panel=DATA, default="text", help="Column of a table that holds the text.")
]
