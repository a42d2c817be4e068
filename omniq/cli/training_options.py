"""The options of commands that train a model: each one's type, help text and panel; and the progress of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from omniq.cli import options as o

KNOWLEDGE, TRAINING = "Data", "Training"

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="synthetic:seed=0, tofu:DIR, jsonl:FILE ...: omniq list sources.",
        rich_help_panel=KNOWLEDGE,
        show_default=False,
    ),
]
Forms = Annotated[
    str | None,
    o.option(
        "--forms",
        panel=KNOWLEDGE,
        metavar="A,B",
        default="questions, or texts where there are none",
        help="Which items to train on: qa, document, cloze, reverse, completion, choice, true_false.",
    ),
]
Template = Annotated[
    str,
    typer.Option(
        "--template", help="plain, chat, or auto: chat where the tokenizer has it.", rich_help_panel=KNOWLEDGE
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="Folder to write the model to.", rich_help_panel=o.OUTPUT, show_default=False),
]
Epochs = Annotated[int | None, o.option("--epochs", panel=TRAINING, help="Passes over the data.")]
Steps = Annotated[int | None, o.option("--steps", panel=TRAINING, help="Training steps, in place of --epochs.")]
Rate = Annotated[float | None, o.option("--lr", panel=TRAINING, help="Learning rate at its highest.")]
BatchSize = Annotated[int | None, o.option("--batch-size", panel=TRAINING, help="Sequences per step.")]
Schedule = Annotated[
    str | None, o.option("--schedule", panel=TRAINING, help="Of the learning rate: constant, linear or cosine.")
]
Warmup = Annotated[
    float | None, o.option("--warmup", panel=TRAINING, help="Share of the steps in which the rate rises.")
]
MaxTokens = Annotated[
    int | None, o.option("--max-tokens", panel=TRAINING, default="512", help="Of a sequence; what is longer is cut.")
]
PassTokens = Annotated[
    int | None,
    o.option("--pass-tokens", panel=TRAINING, default="2048", help="Tokens in memory at a time; fewer need less."),
]
BFloat16 = Annotated[
    bool,
    typer.Option(
        "--bfloat16",
        help="Multiply matrices in bfloat16 where the processor is faster at it; weights stay float32.",
        rich_help_panel=TRAINING,
    ),
]
Seed = Annotated[int | None, o.option("--seed", panel=TRAINING, default="0", help="Seed of everything random.")]


def forms_in(text: str | None) -> tuple[str, ...]:
    """'qa,document' -> ('qa', 'document'); None -> ()."""
    return tuple(filter(None, (part.strip() for part in (text or "").split(","))))


def scheme_in(text: str | None):
    """'W4A16g32' -> LinearSpec, None -> None."""
    from omniq.spec import LinearSpec

    return None if text is None else LinearSpec.parse(text)


@contextmanager
def steps_shown(quiet: bool) -> Iterator[Callable[[int, int, float], None]]:
    """Gives a function to call with steps done, steps in all and the loss: a bar, or now and then a line."""
    from omniq.progress import counting

    with ExitStack() as stack:
        shown: list[Callable[[int], None]] = []

        def on_step(done: int, total: int, loss: float) -> None:
            if quiet:
                return
            if not shown:
                shown.append(stack.enter_context(counting(total, "step")))
            shown[0](done)

        yield on_step


def loss_rows(losses: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """The losses of the first and the last stretch of steps as rows for people."""
    if not losses:
        return []
    first, last = losses[0], losses[-1]
    return [(f"{name} loss" if name != "loss" else name, f"{first[name]:.4g} -> {last[name]:.4g}") for name in first]
