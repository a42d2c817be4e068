"""The options of `omniq audit` and its commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omniq.cli.completion import names_in, one_of, recipe_names
from omniq.cli.options import CHECK, OUTPUT, RUN, option

MODELS, KNOWLEDGE = "Models", "What to ask"

Original = Annotated[
    str | None, option("--original", panel=MODELS, metavar="MODEL", help="The model before unlearning, not quantised.")
]
Unlearned = Annotated[
    str | None,
    option(
        "--unlearned",
        panel=MODELS,
        metavar="MODEL",
        help="The model after unlearning; leave it out to see damage only.",
    ),
]
Quantized = Annotated[
    list[Path] | None,
    option(
        "--quantized",
        panel=MODELS,
        metavar="FOLDER",
        help="The unlearned model quantised, or, without --unlearned, the original quantised (repeatable).",
    ),
]
Recipes = Annotated[
    list[str] | None,
    option(
        "--recipe",
        panel=MODELS,
        metavar="NAME|FILE|METHOD:SCHEME",
        help="Quantise by this recipe here, such as rtn:W4A16g64, w3 (omniq list recipes) or a YAML file (repeatable).",
        complete=recipe_names,
    ),
]
Controls = Annotated[
    list[Path] | None,
    option(
        "--control",
        panel=MODELS,
        metavar="FOLDER",
        help="The original quantised, one for each --quantized.",
        default="made by the recipe in the checkpoint",
    ),
]
Never = Annotated[
    str | None,
    option("--never", panel=MODELS, metavar="MODEL", help="A model that was never trained on what was unlearned."),
]

Data = Annotated[
    str | None,
    option(
        "--data",
        "-d",
        panel=KNOWLEDGE,
        metavar="SOURCE",
        help="facts, synthetic:seed=0, tofu:DIR, muse:DIR, wmdp:FILE or jsonl:FILE: omniq list sources.",
        complete=names_in("omniq.knowledge.sources"),
    ),
]
AuditPreset = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        help="quick or full.",
        rich_help_panel=KNOWLEDGE,
        autocompletion=one_of("quick", "full"),
    ),
]
Evaluators = Annotated[
    str | None,
    option(
        "--evaluators",
        panel=KNOWLEDGE,
        metavar="A,B,...",
        help="Only these: omniq list evaluators.",
        default="preset's",
        complete=names_in("omniq.audit.evaluators"),
    ),
]
Items = Annotated[
    int | None, option("--items", panel=KNOWLEDGE, help="Questions of a split at most.", default="preset's")
]
TemplateName = Annotated[
    str,
    typer.Option(
        "--template", help="How a question is put: plain, chat, or auto by the tokenizer.", rich_help_panel=KNOWLEDGE
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.", rich_help_panel=RUN)]
AuditOut = Annotated[
    Path | None,
    option("--out", "-o", panel=OUTPUT, metavar="FOLDER", help="For the report, the tables and what has to be made."),
]
Reuse = Annotated[
    Path | None,
    option(
        "--reuse",
        panel=OUTPUT,
        metavar="FOLDER",
        help="Another audit of the same data: take what it made of, and measured on, the same original.",
    ),
]
FailOn = Annotated[
    str | None,
    option(
        "--fail-on",
        panel=CHECK,
        metavar="EFFECT,...",
        help="End with exit code 9 where a verdict has one of these effects, such as recovered,collateral.",
    ),
]
TaskFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write the tasks to.", rich_help_panel=OUTPUT, metavar="TASKDIR")
]
AnswerTokens = Annotated[
    int, typer.Option("--answer-tokens", help="Written at most per answer.", rich_help_panel=KNOWLEDGE)
]
