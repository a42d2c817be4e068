"""Tasks of lm-evaluation-harness on a model of omniq: what it scores, with standard errors."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from datasets.exceptions import DatasetsError
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from torch import nn

from omniq.errors import DataError, UsageError
from omniq.harness.wrapper import OmniqLM

NO_FILTER = "none"
RESAMPLES = 1000
"""Of lm-eval's bootstrap, for metrics whose standard error has no formula, such as perplexity."""


@dataclass(frozen=True)
class HarnessSpec:
    """tasks: names of tasks, groups or tags, or patterns with *. include_path: a folder of the user's own tasks.

    limit: only the first so many items of each task. batch: items scored at a time.
    """

    tasks: tuple[str, ...]
    include_path: Path | None = None
    limit: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no task is named; give lm-eval tasks separated by commas, such as lambada_openai,piqa")
        if self.include_path is not None and not self.include_path.is_dir():
            raise DataError(f"--include-path {self.include_path} is not a folder; give the folder that holds the tasks")
        for name in ("limit", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be 1 or more")


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task over n items; stderr: None where lm-eval has none for it."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int | None


@dataclass(frozen=True, eq=False)
class Tasks:
    """Tasks that exist, by name, and lm-eval's index of where they are."""

    spec: HarnessSpec
    names: tuple[str, ...]
    manager: TaskManager

    def scores(self, model: str | Path | nn.Module | LM, **settings: Any) -> list[TaskScore]:
        """model: a folder, a hub id, a model in memory or an lm-eval model -> its scores, in lm-eval's order.

        settings: of OmniqLM; a model in memory needs tokenizer.
        """
        return scores(self.results(model, **settings))

    def results(self, model: str | Path | nn.Module | LM, **settings: Any) -> dict[str, Any]:
        """What lm-eval's simple_evaluate gives, with every item's answer under 'samples'."""
        with only_errors("lm_eval"):
            lm = model if isinstance(model, LM) else OmniqLM(model, batch_size=self.spec.batch, **settings)
            try:
                return lm_eval.simple_evaluate(
                    model=lm,
                    tasks=list(self.names),
                    batch_size=self.spec.batch,
                    limit=self.spec.limit,
                    bootstrap_iters=RESAMPLES,
                    task_manager=self.manager,
                )
            except (OSError, ValueError, DatasetsError) as error:
                first = str(error).strip().splitlines()[:1] or [type(error).__name__]
                raise DataError(
                    f"lm-eval cannot run {', '.join(self.names)}: {first[0]}; "
                    "a task whose data are on the hub needs the network, or a cache that holds them"
                ) from error


def run(model: str | Path | nn.Module | LM, spec: HarnessSpec, **settings: Any) -> list[TaskScore]:
    """The scores of a model, as Tasks.scores."""
    return found(spec).scores(model, **settings)


def found(spec: HarnessSpec) -> Tasks:
    """The tasks of these names; UsageError for a name that nothing matches.

    lm-eval's own tasks, some fourteen thousand, take seconds to list: where the user's folder has all, they are not.
    """
    with only_errors("lm_eval"):
        if spec.include_path is not None:
            manager = TaskManager(include_path=str(spec.include_path), include_defaults=False)
            if all(manager.match_tasks([name]) for name in spec.tasks):
                return Tasks(spec, tuple(manager.match_tasks(list(spec.tasks))), manager)
        manager = TaskManager(include_path=None if spec.include_path is None else str(spec.include_path))
    for name in spec.tasks:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UsageError(f"lm-eval has no task {name!r}{hint} List them with: lm-eval ls tasks")
    return Tasks(spec, tuple(manager.match_tasks(list(spec.tasks))), manager)


def protocol(spec: HarnessSpec) -> str:
    """What the scores were measured by, for people."""
    which = "all items" if spec.limit is None else f"at most the first {spec.limit} items"
    return f"lm-eval {version('lm_eval')}, {which} of each task"


def scores(results: Mapping[str, Any]) -> list[TaskScore]:
    """lm-eval's results -> one TaskScore for every metric of every task and of every group that has any."""
    counts = {task: count["effective"] for task, count in results.get("n-samples", {}).items()}
    return [
        TaskScore(task, *score, counts.get(task))
        for task, values in {**results["results"], **results.get("groups", {})}.items()
        for score in metrics_of(values)
    ]


def metrics_of(values: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """(metric, value, standard error) of one task; a filter other than none is part of the metric's name."""
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or isinstance(value, (str, bool)):
            continue
        stderr = values.get(f"{metric}_stderr,{chosen}")
        known = stderr if isinstance(stderr, float) else None
        yield metric if chosen == NO_FILTER else key, float(value), known


@contextmanager
def only_errors(name: str) -> Iterator[None]:
    """Keeps a package's log to errors for a while: what it warns of was decided here."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
