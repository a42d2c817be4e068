"""Where each command stands in the help, and the examples below its own help."""

from __future__ import annotations

from typing import Any

MAKE, RUN, MEASURE, LOOK = "Make", "Run", "Measure", "Look"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "quantize": (
        "omniq quantize MODEL --config w4-fast --calib my-text.txt -o OUT",
        "omniq quantize MODEL --wbits 3 --group-size 64 --preset default -o OUT --dry-run",
    ),
    "eval": (
        "omniq eval OUT --against MODEL --text test.txt",
        "omniq eval OUT --tasks arc_easy,hellaswag --limit 100",
    ),
    "generate": (
        'omniq generate OUT "What is the capital of France?"',
        'omniq generate OUT "Once upon a time" --no-chat --temperature 0.8 --activations int8',
    ),
    "export": (
        "omniq export OUT --format gptq -o OUT-gptq --dry-run",
        "omniq export OUT --format dense --dtype float32 -o OUT-dense",
    ),
    "push": (
        "omniq push OUT user/name --dry-run",
        "omniq push OUT user/name --private",
    ),
    "report": (
        "omniq report OUT",
        "omniq eval OUT --against MODEL --text test.txt --record",
    ),
    "audit": (
        "omniq audit --original MODEL --recipe rtn:W4A16g64 --recipe w3 --data facts --out REPORT",
        "omniq audit --original A --unlearned B --quantized C --data tofu:DIR --out REPORT",
    ),
    "unlearn": (
        "omniq unlearn MODEL --data synthetic:seed=0 --method npo --lr 3e-4 --out OUT",
        "omniq unlearn MODEL --data tofu:DIR --method grad_diff --out OUT",
    ),
    "info": ("omniq info", "omniq info OUT"),
    "doctor": ("omniq doctor", "omniq doctor --json"),
    "list": ("omniq list recipes", "omniq list presets"),
    "bench": (
        "omniq bench kernels --model-shapes llama3-8b --csv rows.csv",
        "omniq bench decode OUT --against MODEL",
    ),
    "fetch-demo": (
        "omniq fetch-demo smollm2-135m",
        "omniq fetch-demo gemma3-270m --model gemma3",
    ),
}
"""Two command lines for each command."""

PANELS = {
    **dict.fromkeys(("quantize", "export", "push", "unlearn", "fetch-demo"), MAKE),
    "generate": RUN,
    **dict.fromkeys(("eval", "audit", "bench"), MEASURE),
    **dict.fromkeys(("report", "info", "doctor", "list"), LOOK),
}
"""The panel of the help that each command stands in."""

START = (
    "omniq fetch-demo smollm2-135m",
    "omniq quantize smollm2-135m --config cpu-small -o smollm2-w4",
    "omniq eval smollm2-w4 --against smollm2-135m --text my-text.txt",
    'omniq generate smollm2-w4 "What is the capital of France?"',
)
"""The way through the commands for somebody who is here for the first time."""


def about(name: str) -> dict[str, Any]:
    """What typer is told of a command beside its function: its panel, and its examples to be shown last."""
    return {"rich_help_panel": PANELS[name], "epilog": lines("Examples:", EXAMPLES[name])}


def lines(title: str, commands: tuple[str, ...]) -> str:
    """A title and command lines, each on a line of its own, as typer takes them."""
    return "\n".join((f"[bold]{title}[/bold]", *(f"  {command}" for command in commands)))
