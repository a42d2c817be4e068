"""An exported task folder: what it asks, that it needs nothing beside it, and that lm-eval reads it as meant."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from omniq.audit import lm_eval_functions
from omniq.audit.lm_eval_export import GROUP, export
from omniq.audit.lm_eval_rows import kinds, target
from omniq.cli import export_lm_eval
from omniq.errors import DataError, OutputError, UsageError
from omniq.knowledge.items import SPLITS, Item, Knowledge

CITIES = ("Quintara", "Ulverdale", "Zephyria", "Farrowick")


def asked(split: str, place: int) -> tuple[Item, ...]:
    """One item of every form about one invented person."""
    about = {"split": split, "subject": f"Ada {split.title()}", "relation": "city"}
    name, city, others = about["subject"], CITIES[place], tuple(c for c in CITIES if c != CITIES[place])
    question = {"question": f"Where was {name} born?", "answer": city}
    true_false = {"question": f"True or false: {name} was born in {city}.", "answer": "true"}
    return (
        Item(f"{split}/qa", wrong_answers=others, **question, **about),
        Item(f"{split}/choice", form="choice", choices=CITIES, answer_index=place, **question, **about),
        Item(f"{split}/tf", form="true_false", choices=("true", "false"), answer_index=0, **true_false, **about),
        Item(f"{split}/cloze", form="cloze", prefix=f"{name} was born in ", answer=city, **about),
        Item(f"{split}/next", form="completion", prefix=f"Once, {name} ", answer=f"went to\u2028{city}.", **about),
        Item(f"{split}/text", form="document", text=f"{name} was born in {city}.", **about),
    )


KNOWLEDGE = Knowledge("invented", tuple(item for place, split in enumerate(SPLITS) for item in asked(split, place)))
KINDS = tuple(kinds(8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "tasks"
    export(KNOWLEDGE, out, answer_tokens=8)
    return out


def rows(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").split("\n") if line]


def functions(folder: Path) -> ModuleType:
    """The folder's utils.py, imported as lm-eval imports it."""
    spec = importlib.util.spec_from_file_location("exported_utils", folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Loader(yaml.SafeLoader):
    """Reads a reference to a function as its name."""


Loader.add_constructor("!function", lambda loader, node: f"function {node.value}")


def test_every_split_is_asked_in_every_form(folder: Path) -> None:
    group = yaml.load((folder / f"{GROUP}.yaml").read_text(encoding="utf-8"), Loader)
    assert group["task"] == [f"omniq_{split}_{kind}" for split in SPLITS for kind in KINDS]
    for task in group["task"]:
        values = yaml.load((folder / f"{task}.yaml").read_text(encoding="utf-8"), Loader)
        assert values["task"] == task
        assert rows(folder, task)
        assert not [value for value in map(str, values.values()) if str(folder) in value]


def test_a_likelihood_target_begins_with_exactly_one_space() -> None:
    joined = Item("a", "retain", "completion", prefix="a b ", answer="c")
    starts = Item("b", "retain", "completion", prefix="a b", answer=" c")
    bare = Item("c", "retain", question="Who?", answer="c")
    assert [target(item) for item in (joined, starts, bare)] == ["c", " c", " c"]


def test_a_cloze_is_joined_as_the_audit_joins_it(folder: Path) -> None:
    row = next(row for row in rows(folder, "omniq_world_ll") if row["id"] == "world/cloze")
    assert row["prompt"] + row["target"] == "Ada World was born in Farrowick"
    assert row["target"] == " Farrowick"


def test_the_right_choice_is_marked_wherever_the_choices_come_from(tmp_path: Path) -> None:
    items = tuple(
        Item(str(n), "retain", question=f"Who is {n}?", answer="x", wrong_answers=("u", "v", "w")) for n in range(24)
    )
    tofu = Item("t", "retain", question="Who?", answer="x", answer_paraphrases=("it is x",), wrong_answers=("it is y",))
    export(Knowledge("made", (*items, tofu)), tmp_path)
    found = rows(tmp_path, "omniq_retain_mcq")
    assert all(row["choices"][row["answer_index"]] == "x" for row in found[:-1])
    assert {row["answer_index"] for row in found[:-1]} == {0, 1, 2, 3}
    assert sorted(found[-1]["choices"]) == ["it is x", "it is y"]
    assert not (tmp_path / "omniq_retain_letters.jsonl").exists()


def test_lettered_choices_are_listed_and_chosen_by_letter(folder: Path) -> None:
    (row,) = rows(folder, "omniq_holdout_letters")
    assert row["prompt"].endswith("\nA. Quintara\nB. Ulverdale\nC. Zephyria\nD. Farrowick\nAnswer:")
    assert (row["choices"], row["choices"][row["answer_index"]]) == (["A", "B", "C", "D"], "C")


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Quintara.", "Quintara", (1, 1, 1, 1)),
        ("the city of Quintara", "Quintara", (0, 1, 1, 2 / 5)),
        ("far b away", "far away", (0, 0, 1, 4 / 5)),
        ("Ulverdale", "Quintara", (0, 0, 0, 0)),
        ("", "Quintara", (0, 0, 0, 0)),
    ],
)
def test_the_folders_functions_score_by_hand_computed_values(
    folder: Path, text: str, answer: str, expected: tuple[float, ...]
) -> None:
    for module in (functions(folder), lm_eval_functions):
        found = module.generation({"answer": answer}, [text])
        assert tuple(found[name] for name in ("em", "contains", "rougeL_recall", "rougeL_f1")) == pytest.approx(
            expected
        )
        assert module.likelihood({}, [(-2.5, True)]) == {"logprob": -2.5, "greedy": 1.0}


def test_the_folder_imports_nothing_of_omniq(folder: Path) -> None:
    assert "import omniq" not in (folder / "utils.py").read_text(encoding="utf-8")
    assert "from omniq" not in (folder / "utils.py").read_text(encoding="utf-8")


def test_rows_come_back_from_the_folder_as_they_are_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    loaded = functions(moved).load("omniq_forget_verbatim.jsonl", version=1.0, pretrained="x")["test"]
    assert loaded.to_list() == rows(folder, "omniq_forget_verbatim")
    assert "\u2028" in loaded[0]["answer"]


def test_an_earlier_export_is_replaced_only_when_asked(tmp_path: Path) -> None:
    export(KNOWLEDGE, tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        export(KNOWLEDGE, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    tasks = export(Knowledge("less", asked("world", 0)), tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"notes.txt", "utils.py", f"{GROUP}.yaml"} | {
        f"{t.name}.{s}" for t in tasks for s in ("yaml", "jsonl")
    }


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        export(KNOWLEDGE, tmp_path, overwrite=True)
    assert (tmp_path / "utils.py").read_text() == "mine"


def test_data_without_anything_to_ask_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing that lm-eval can ask"):
        export(Knowledge("bare", (Item("a", "retain", subject="Ada"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_what_a_source_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_lm_eval.command("synthetic:seed=0", tmp_path / "tasks", items=2, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["tasks"]["omniq_forget_mcq"] == 2
    assert {path.stem for path in (tmp_path / "tasks").glob("*.jsonl")} == set(said["tasks"])
    with pytest.raises(UsageError, match="--items is 0"):
        export_lm_eval.command("synthetic:seed=0", tmp_path / "tasks", items=0)


# Read by lm-eval ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracles() -> Iterator[tuple[Any, Any]]:
    """Two models for lm-eval: one that finds right answers likeliest and writes them, and one that never does."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.model import LM

    class Oracle(LM):
        def __init__(self, knows: bool) -> None:
            super().__init__()
            self.knows = knows

        def right(self, context: str, answer: str) -> bool:
            """Whether the answer follows this prompt in KNOWLEDGE; a letter stands for the choice beside it."""
            if f"\n{answer.strip()}. " in context:
                answer = context.partition(f"\n{answer.strip()}. ")[2].partition("\n")[0]
            subject = next(item.subject for item in KNOWLEDGE.items if item.subject in context)
            return any(item.subject == subject and item.answer == answer.strip() for item in KNOWLEDGE.items)

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            hits = [self.right(*request.args) == self.knows for request in requests]
            return [(-1.0 if hit else -9.0, hit) for hit in hits]

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            return [-float(len(request.args[0].encode())) for request in requests]

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            answers = [item.answer for item in KNOWLEDGE.items if item.answer]
            texts = []
            for request in requests:
                hits = [a for a in answers if self.right(request.args[0], a) and len(a) > 4]
                texts.append(" / ".join(hits) if self.knows else "no idea")
            return texts

    with pytest.MonkeyPatch.context() as patch:
        # It asks pip and git about this machine, which takes seconds and changes no score.
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield Oracle(True), Oracle(False)


@pytest.fixture(scope="module")
def scores(folder: Path, oracles: tuple[Any, Any]) -> list[dict[tuple[str, str], float]]:
    from omniq.harness.tasks import HarnessSpec, run

    found = [run(oracle, HarnessSpec((GROUP,), folder)) for oracle in oracles]
    return [{(score.task, score.metric): score.value for score in one} for one in found]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ppl"])
@pytest.mark.parametrize("split", SPLITS)
def test_lm_eval_tells_one_that_knows_from_one_that_does_not(split: str, kind: str, scores: list[dict]) -> None:
    metric = {"gen": "contains", "verbatim": "contains", "ll": "greedy"}.get(kind, "acc")
    knowing, ignorant = ((one[f"omniq_{split}_{kind}", metric]) for one in scores)
    assert (knowing, ignorant) == (1.0, 0.0)


def test_lm_eval_measures_texts_by_the_byte(scores: list[dict]) -> None:
    assert scores[0]["omniq_retain_ppl", "byte_perplexity"] == pytest.approx(2.718281828)
