"""Knowledge as a folder of lm-evaluation-harness tasks that needs neither omniq nor the network."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniq.audit.lm_eval_functions import COPIED
from omniq.audit.lm_eval_rows import OWN, Kind, Row, kinds
from omniq.audit.metrics.answers import ARTICLES
from omniq.audit.metrics.rouge import WORD
from omniq.errors import DataError, OutputError, UsageError
from omniq.knowledge.items import Knowledge
from omniq.shards import write_text

GROUP = "omniq_unlearning"
FUNCTIONS_HEAD = '''"""How these tasks are read and scored; written by omniq audit export-lm-eval."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

'''


@dataclass(frozen=True)
class Task:
    """One exported task: its name in lm-eval, the split and form it is about, and how many rows it has."""

    name: str
    split: str
    kind: str
    rows: int


def export(knowledge: Knowledge, folder: Path, *, answer_tokens: int = 200, overwrite: bool = False) -> list[Task]:
    """Writes the tasks with their data and functions, in one group; the tasks written, by split.

    answer_tokens: written at most per answer. overwrite: replace an earlier export in the folder.
    """
    if answer_tokens < 1:
        raise UsageError(f"answer tokens are {answer_tokens}; write at least 1")
    found = {
        (split, name): [kind.row(item) for item in kind.items(knowledge, split)]
        for split in knowledge.splits()
        for name, kind in kinds(answer_tokens).items()
    }
    tasks = [Task(f"omniq_{split}_{name}", split, name, len(rows)) for (split, name), rows in found.items() if rows]
    if not tasks:
        raise DataError(f"{knowledge.name} has nothing that lm-eval can ask: no question, prefix or text")
    clear(folder, overwrite)
    for task in tasks:
        write_text(folder / f"{task.name}.jsonl", lines(found[task.split, task.kind]))
        write_text(folder / f"{task.name}.yaml", task_yaml(task.name, kinds(answer_tokens)[task.kind]))
    write_text(folder / "utils.py", functions())
    write_text(folder / f"{GROUP}.yaml", group_yaml(knowledge, tasks))
    return tasks


def clear(folder: Path, overwrite: bool) -> None:
    """Makes the folder; takes an earlier export out of it, and refuses anything else that lies there."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.iterdir())
    if not files:
        return
    if not (folder / f"{GROUP}.yaml").is_file():
        raise OutputError(f"{folder} is not empty and holds no exported tasks; choose another --out folder")
    if not overwrite:
        raise OutputError(f"{folder} holds exported tasks already; give --overwrite to replace them")
    for file in files:
        if file.name == "utils.py" or (file.name.startswith("omniq_") and file.suffix in (".yaml", ".jsonl")):
            file.unlink()


def lines(rows: Iterable[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def task_yaml(name: str, kind: Kind) -> str:
    """The yaml of a task: JSON values, which yaml reads, and references to utils.py."""
    metrics = [measured(metric) for metric in kind.metrics]
    values = {
        "task": name,
        "custom_dataset": "!function utils.load",
        "dataset_kwargs": {"file": f"{name}.jsonl"},
        "test_split": "test",
        **kind.settings,
        "metric_list": metrics,
        "metadata": {"version": 1.0},
    }
    return "".join(f"{key}: {yaml_value(value)}\n" for key, value in values.items())


def measured(metric: str) -> Row:
    """A metric as lm-eval lists it; those of its own bring their aggregation along."""
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True} if metric in OWN else {"metric": metric}


def yaml_value(value: Any) -> str:
    """A value in JSON, a reference to a function as it stands."""
    is_reference = isinstance(value, str) and value.startswith("!function ")
    return value if is_reference else json.dumps(value)


def group_yaml(knowledge: Knowledge, tasks: Sequence[Task]) -> str:
    """The yaml of the group. It has no mean: what should fall and what should stay do not belong in one number."""
    names = "".join(f"  - {task.name}\n" for task in tasks)
    head = f"# {knowledge.name.splitlines()[0]}. Run: lm_eval --model hf --model_args pretrained=MODEL,dtype=float32 "
    return (
        f"{head}--tasks {GROUP} --include_path THIS_FOLDER\ngroup: {GROUP}\ntask:\n{names}metadata: {{version: 1.0}}\n"
    )


def functions() -> str:
    """The text of utils.py."""
    constants = f"WORD = re.compile({WORD.pattern!r})\nARTICLES = {ARTICLES!r}\n"
    return FUNCTIONS_HEAD + constants + "".join(f"\n\n{inspect.getsource(function)}" for function in COPIED)
