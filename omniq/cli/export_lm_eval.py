"""omniq audit export-lm-eval: the data of an audit as a folder of lm-evaluation-harness tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omniq.cli import audit_options as a
from omniq.cli import options as o
from omniq.errors import UsageError

if TYPE_CHECKING:
    from omniq.audit.lm_eval_export import Task
    from omniq.knowledge.items import Knowledge


def command(
    data: a.Data,
    out: a.TaskFolder,
    items: a.Items = None,
    answer_tokens: a.AnswerTokens = 200,
    seed: a.Seed = 0,
    overwrite: o.Overwrite = False,
    as_json: o.Json = False,
) -> None:
    """Write the questions as tasks that lm_eval runs on any model, without omniq.

    One task for each split and form (gen, verbatim, mcq, letters, truefalse, ll, ppl), all in one group.
    """
    from omniq.audit.lm_eval_export import export
    from omniq.knowledge.source import read

    knowledge = limited(read(data), items, seed)
    show(out, export(knowledge, out, answer_tokens=answer_tokens, overwrite=overwrite), as_json)


def limited(knowledge: Knowledge, items: int | None, seed: int) -> Knowledge:
    """At most `items` of every split and form, or all."""
    from omniq.knowledge.items import FORMS

    if items is None:
        return knowledge
    if items < 1:
        raise UsageError(f"--items is {items}; it must be 1 or more")
    return knowledge.sampled(dict.fromkeys(FORMS, items), seed)


def show(out: Path, tasks: list[Task], as_json: bool) -> None:
    """The tasks on standard output, and how to run them."""
    from omniq.audit.lm_eval_export import GROUP
    from omniq.cli.render import print_json, print_pairs, print_table

    if as_json:
        return print_json({"folder": str(out), "group": GROUP, "tasks": {task.name: task.rows for task in tasks}})
    print_table(str(out), ("task", "items"), [(task.name, str(task.rows)) for task in tasks])
    harness = f"lm_eval --model hf --model_args pretrained=MODEL,dtype=float32 --tasks {GROUP} --include_path {out}"
    ours = f"omniq eval FOLDER --tasks {GROUP} --include-path {out}"
    return print_pairs("Run", [("any model", harness), ("a quantised one", ours)])
