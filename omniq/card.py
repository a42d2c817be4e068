"""The model card of a quantised checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from omniq import __version__
from omniq.calibrate.data import CalibrationData
from omniq.eval.compare import Comparison
from omniq.recipe import Recipe

CARD = """---
{origin}library_name: transformers
tags: [omniq, quantized, {scheme}]
---
# {base}, quantised to {scheme}

{bits:.2f} bits per quantised weight, scales included{tables}. {allocation}Made with omniq {version}, preset `{preset}`.

## Load
{elsewhere}```python
import omniq                                                   # on omniq's own kernels
model = omniq.load("PATH_OF_THIS_FOLDER")
```
{loaders}

## Quality
{quality}

## Recipe
Calibration data: {data}.
```json
{recipe}
```
"""


TRANSFORMERS = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer   # needs the package compressed-tensors
model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
```
"""


def model_card(
    base: str,
    recipe: Recipe,
    bits: float,
    data: CalibrationData | None,
    measured: Comparison | None,
    protocol: str | None,
    loaders: tuple[str, ...],
    tables: str | None = None,
    allocation: str | None = None,
) -> str:
    """README.md: how to load the checkpoint, what was measured and how it was made.

    base: as the user named the model; a path of this machine is cut to its last part and not called a hub model.
    loaders: one sentence a runtime, the first of transformers. tables: how embedding and head are quantised.
    allocation: which bits the linears have, where they differ.
    """
    local = Path(base).expanduser().exists()
    return CARD.format(
        origin="" if local else f"base_model: {base}\nbase_model_relation: quantized\n",
        base=Path(base).expanduser().resolve().name if local else base,
        scheme=recipe.label,
        bits=bits,
        tables=f", embedding table and output head among them ({tables})" if tables else "",
        allocation=f"By measured sensitivity, {allocation}. " if allocation else "",
        elsewhere=TRANSFORMERS if ": yes" in loaders[0] else "",
        version=__version__,
        preset=recipe.preset,
        loaders="\n".join(f"- {line}" for line in loaders),
        quality=quality(measured, protocol),
        data=data.description if data else "none (the preset looks at the weights alone)",
        recipe=json.dumps(recipe.to_dict(), indent=2),
    )


def quality(measured: Comparison | None, protocol: str | None) -> str:
    """A table of what was measured and the protocol, or the sentence that nothing was."""
    if measured is None:
        return "Not measured. `omniq eval PATH --against ORIGINAL --text FILE` measures it."
    return (
        "| | original | quantised |\n|---|---|---|\n"
        f"| perplexity | {measured.ppl_original:.3f} | {measured.ppl:.3f} |\n"
        f"| KL to the original, nats per token | 0 | {measured.kl:.4f} |\n"
        f"| same best next token | 1 | {measured.top1:.4f} |\n\n"
        f"Measured on {protocol}."
    )
