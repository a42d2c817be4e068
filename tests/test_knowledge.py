"""Items, how they are drawn, and every source of them: what is read, and what is said of a file that is not right."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from omniq.errors import DataError, OmniqError, UsageError
from omniq.knowledge import rows as rows_module
from omniq.knowledge.items import FORMS, SPLITS, Item, Knowledge, drawn
from omniq.knowledge.options import key_values
from omniq.knowledge.rows import rows
from omniq.knowledge.source import SOURCES, read
from omniq.knowledge.tables import CAPITALS, ELEMENTS

QUESTION = {"question": "Who wrote it?", "answer": "Ann"}
PERTURBED = {
    **QUESTION,
    "paraphrased_answer": "It was Ann.",
    "perturbed_answer": ["It was Bob.", "It was Cid."],
    "paraphrased_question": "By whom is it?",
}
CHOICE = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}


def write(path: Path, values: list[Any], lines: bool = False) -> Path:
    """A JSON list, or a JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(v) + "\n" for v in values) if lines else json.dumps(values), encoding="utf-8")
    return path


def numbered(row: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """`count` copies of a row whose questions differ."""
    return [{**row, "question": f"{row['question']} {number}"} for number in range(count)]


# Items -------------------------------------------------------------------------------------------------------------


def test_an_item_comes_back_from_its_plain_values() -> None:
    item = Item("a", "forget", wrong_answers=("x", "y"), choices=("x", "z"), answer_index=0, question="q", answer="x")
    assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item
    assert "text" not in item.to_dict()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"split": "train"}, "split is 'train'; it must be one of forget, retain, holdout, world"),
        ({"form": "essay"}, "form is 'essay'; it must be one of qa"),
        ({"answer_index": 2, "choices": ("a", "b")}, "answer_index is 2, but it has 2 choices"),
        ({"answer_index": 0}, "answer_index is 0, but it has 0 choices"),
    ],
)
def test_an_item_that_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"item 'a': {said}")):
        Item(**{"id": "a", "split": "forget", **values})


def test_ids_are_unique_within_knowledge() -> None:
    with pytest.raises(DataError, match="data: the id 'a' occurs more than once"):
        Knowledge("data", (Item("a", "forget"), Item("b", "forget"), Item("a", "retain")))


def grid(people: int, questions: int, split: str = "forget", form: str = "qa") -> list[Item]:
    """The same questions about everyone."""
    return [
        Item(f"{split}/{form}/{p}/{q}", split, form, subject=f"{split} {p}", relation=f"r{q}")
        for p in range(people)
        for q in range(questions)
    ]


def test_of_selects_by_split_form_and_columns_in_order() -> None:
    items = (*grid(2, 2), Item("t", "retain", "document", text="x"), Item("u", "retain", question="q", answer="a"))
    knowledge = Knowledge("data", items)
    assert knowledge.of() == items
    assert knowledge.of("forget") == items[:4]
    assert knowledge.of("retain", "document") == (items[4],)
    assert knowledge.of(having=("question", "answer")) == (items[5],)
    assert knowledge.of("holdout") == ()
    assert knowledge.splits() == ("forget", "retain")


@pytest.mark.parametrize(
    ("people", "questions", "count"), [(10, 6, 10), (10, 6, 25), (40, 20, 7), (3, 7, 20), (5, 1, 3)]
)
def test_a_sample_draws_subjects_and_relations_evenly(people: int, questions: int, count: int) -> None:
    sample = Knowledge("data", tuple(grid(people, questions))).sampled({"qa": count})
    assert len(sample.items) == count
    for number, key in ((people, "subject"), (questions, "relation")):
        counts = Counter(getattr(item, key) for item in sample.items)
        assert max(counts.values()) - min([*counts.values(), *[0] * (number - len(counts))]) <= 1, counts


def test_a_sample_keeps_the_order_and_differs_by_seed() -> None:
    knowledge = Knowledge("data", tuple(grid(30, 4)))
    samples = [knowledge.sampled({"qa": 12}, seed).items for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert list(samples[0]) == [item for item in knowledge.items if item in samples[0]]


def test_a_sample_is_drawn_from_every_split_and_form_and_forms_without_a_limit_are_whole() -> None:
    items = [i for split in SPLITS for form in ("qa", "cloze") for i in grid(4, 3, split, form)]
    sample = Knowledge("data", tuple(items)).sampled({"qa": 5})
    assert Counter((i.split, i.form) for i in sample.items) == {
        (split, form): 5 if form == "qa" else 12 for split in SPLITS for form in ("qa", "cloze")
    }


def test_a_sample_as_large_as_the_pool_is_the_pool() -> None:
    pool = grid(3, 2)
    assert drawn(pool, 6, random.Random(0)) == drawn(pool, 60, random.Random(0)) == pool


# Sources as such ---------------------------------------------------------------------------------------------------


def test_every_source_says_what_it_is_in_one_line() -> None:
    assert set(SOURCES) == {"synthetic", "tofu", "muse", "wmdp", "jsonl", "facts"}
    for _, source in SOURCES.items():
        assert source.summary
        assert "\n" not in source.summary
        assert not source.needed or source.argument


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tofo:x", "unknown knowledge source 'tofo'; did you mean 'tofu'?"),
        ("tofu", "write tofu:DIR"),
        ("tofu:", "write tofu:DIR"),
        ("muse", "write muse:DIR"),
        ("wmdp", "write wmdp:FILE"),
        ("jsonl", "write jsonl:FILE"),
        ("facts:all", "facts takes nothing after it"),
    ],
)
def test_a_source_that_is_named_wrongly_is_a_usage_error(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        read(name)


@pytest.mark.parametrize("name", ["tofu", "muse", "wmdp", "jsonl"])
def test_a_place_that_is_not_there_is_a_sentence_that_asks_for_local_data(name: str, tmp_path: Path) -> None:
    place = re.escape(f"{tmp_path}/nowhere")
    with pytest.raises(DataError, match=rf"there is no (folder|file) {place}.*local.*download"):
        read(f"{name}:{tmp_path}/nowhere")


@pytest.mark.parametrize("name", ["tofu", "muse"])
def test_a_file_where_a_folder_is_wanted_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", [QUESTION])
    with pytest.raises(DataError, match="is a file; give the folder with"):
        read(f"{name}:{path}")


@pytest.mark.parametrize("name", ["tofu", "muse", "wmdp"])
def test_a_folder_without_the_files_is_refused_and_what_it_holds_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "cats.csv").touch()
    with pytest.raises(DataError, match=r"it holds cats\.csv"):
        read(f"{name}:{tmp_path}")


def test_a_folder_where_a_file_is_wanted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; give one file that ends in \.json, \.jsonl or \.parquet"):
        read(f"jsonl:{tmp_path}")


def test_options_are_split_at_commas_and_equals_signs() -> None:
    assert key_values(" a = 1 ,b=x=y,", "me") == {"a": "1", "b": "x=y"}
    assert key_values("", "me") == {}


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("lines", [False, True])
def test_lists_and_lines_are_read_alike_whatever_the_suffix(suffix: str, lines: bool, tmp_path: Path) -> None:
    path = write(tmp_path / f"x{suffix}", [QUESTION, {"question": "Ünï?", "answer": "ja"}], lines)
    assert [row.values for row in rows(path)] == [QUESTION, {"question": "Ünï?", "answer": "ja"}]


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\ufeff" + json.dumps(QUESTION) + "\r\n\r\n" + json.dumps(QUESTION), encoding="utf-8")
    assert [row.place for row in rows(path)] == [f"{path}, line 1", f"{path}, line 3"]


def test_a_line_separator_within_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "a\u2028b", "answer": "c"}\n', encoding="utf-8")
    assert rows(path)[0].text("question") == "a\u2028b"


def test_parquet_files_are_read_and_their_nulls_count_as_absent(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist([CHOICE, {**CHOICE, "answer": None}])
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    found = rows(tmp_path / "test-00000-of-00001.parquet")
    assert found[0].values == CHOICE
    assert "answer" not in found[1]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="is not a readable parquet file"):
        rows(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no row"),
        (b"\n \n", "holds no row"),
        (b"[]", "holds no row"),
        (b'[{"a": 1]', "is not JSON (Expecting ',' delimiter at line 1, column 9); the file must be one JSON list"),
        (b'{"a": 1}\n{"a": \n', "x.json, line 2 is not JSON"),
        (b"question,answer\n", "x.json, line 1 is not JSON"),
        (b"3\n", "x.json, line 1 is a whole number; each row must be an object"),
        (b'[{"a": 1}, "b"]', "x.json, row 2 is a text; each row must be an object"),
        (b"[" * 100_000, "is not JSON"),
        (b"[" + b"9" * 5000 + b"]", "is not JSON"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(said)):
        rows(tmp_path / "x.json")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"ends in '\.pkl'; questions are read from files in \.json"):
        rows(tmp_path / "x.pkl")


def test_a_file_too_large_to_be_questions_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.json", [QUESTION] * 3)
    monkeypatch.setattr(rows_module, "LARGEST", 100)
    with pytest.raises(DataError, match="give a file of questions"):
        rows(path)


CELLS = [
    ({"answer": "a"}, "has no column 'question'; it has 'answer'. Give every row a 'question'"),
    ({**QUESTION, "question": None}, "has no column 'question'"),
    ({**QUESTION, "answer": 3}, "column 'answer' holds a whole number; write a text, in quotes"),
    ({**QUESTION, "answer": ["a"]}, "column 'answer' holds a list; write a text"),
    ({**QUESTION, "answer": " "}, "column 'answer' is blank"),
    ({**QUESTION, "question": "\ud800"}, "column 'question' holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("row", "said"), CELLS)
@pytest.mark.parametrize(("source", "file"), [("tofu", "forget10.json"), ("muse", "knowmem/retain_qa.jsonl")])
def test_a_bad_cell_is_a_sentence_with_file_row_and_column(
    source: str, file: str, row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write(tmp_path / file, [QUESTION, row])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / file}, row 2") + ".*" + re.escape(said)):
        read(f"{source}:{tmp_path}")


# TOFU --------------------------------------------------------------------------------------------------------------


def tofu_folder(place: Path) -> Path:
    """Two forget sets, one with the columns of truth ratios; everything else in its usual place."""
    write(place / "forget01.json", numbered(QUESTION, 20))
    write(place / "forget10_perturbed.json", numbered(PERTURBED, 40), lines=True)
    write(place / "retain_perturbed.json", numbered(PERTURBED, 60))
    write(place / "holdout10.jsonl", numbered(QUESTION, 20), lines=True)
    write(place / "world_facts_perturbed.json", [{**QUESTION, "perturbed_answer": ["Bob", "Cid", "Dee"]}])
    return place


def test_tofu_takes_the_smallest_forget_set_unless_told_otherwise_and_says_so(tmp_path: Path) -> None:
    place = tofu_folder(tmp_path)
    knowledge = read(f"tofu:{place}")
    assert {split: len(knowledge.of(split)) for split in knowledge.splits()} == {"forget": 20, "retain": 60, "world": 1}
    assert "The forget set is forget01; a larger one is taken with forget=10." in knowledge.notes
    assert any("real authors" in note for note in knowledge.notes)
    larger = read(f"tofu:{place},forget=10")
    assert {split: len(larger.of(split)) for split in larger.splits()} == {
        "forget": 40, "retain": 60, "holdout": 20, "world": 1,
    }  # fmt: skip
    assert not any("larger" in note for note in larger.notes)


def test_tofu_items_hold_its_columns(tmp_path: Path) -> None:
    knowledge = read(f"tofu:{tofu_folder(tmp_path)},forget=10")
    item = knowledge.of("forget")[21]
    assert item.to_dict() == {
        "id": "forget10_perturbed/21", "split": "forget", "form": "qa", "subject": "forget10_perturbed/author 1",
        "question": "Who wrote it? 21", "answer": "Ann", "question_paraphrases": ("By whom is it?",),
        "answer_paraphrases": ("It was Ann.",), "wrong_answers": ("It was Bob.", "It was Cid."),
    }  # fmt: skip
    assert not knowledge.of("holdout", having=("wrong_answers",))


def test_tofu_world_items_have_short_choices_and_the_answer_itself_is_the_right_side(tmp_path: Path) -> None:
    (item,) = read(f"tofu:{tofu_folder(tmp_path)}").of("world")
    assert (item.relation, item.answer_paraphrases) == ("world_facts", ())
    assert sorted(item.choices) == ["Ann", "Bob", "Cid", "Dee"]
    assert item.choices[item.answer_index] == "Ann"
    assert item.wrong_answers == ("Bob", "Cid", "Dee")


def test_tofu_rows_that_cannot_be_assigned_to_authors_have_no_subject_and_a_note(tmp_path: Path) -> None:
    write(tmp_path / "forget05.json", numbered(QUESTION, 21))
    knowledge = read(f"tofu:{tmp_path}")
    assert {item.subject for item in knowledge.items} == {""}
    assert any("21 rows, no multiple of 20" in note for note in knowledge.notes)
    assert any("no retain_perturbed and no retain95" in note for note in knowledge.notes)


def test_a_tofu_retain_set_never_holds_the_forget_set(tmp_path: Path) -> None:
    write(tmp_path / "forget10.json", numbered(QUESTION, 20))
    write(tmp_path / "retain99.json", numbered(QUESTION, 20))
    assert read(f"tofu:{tmp_path}").splits() == ("forget",)
    write(tmp_path / "forget01.json", numbered(QUESTION, 20))
    assert read(f"tofu:{tmp_path}").splits() == ("forget", "retain")
    write(tmp_path / "retain90.json", numbered(QUESTION, 40))
    assert len(read(f"tofu:{tmp_path},forget=10").of("retain")) == 40


def test_a_comma_in_the_name_of_a_folder_does_no_harm(tmp_path: Path) -> None:
    place = tofu_folder(tmp_path / "a, b")
    assert len(read(f"tofu:{place},forget=10").of("forget")) == 40
    assert len(read(f"tofu:{place}").of("forget")) == 20


@pytest.mark.parametrize(
    ("option", "error", "said"),
    [
        (",forget=05", DataError, "has no forget05; forget can be 01 or 10 here"),
        (",forget=7", UsageError, "forget=07 is not one of 01, 05, 10; they are per cent"),
        (",retain=90", UsageError, "tofu has no option 'retain'; it has forget"),
        (",forget=1,forget=10", UsageError, "forget is given twice"),
    ],
)
def test_a_tofu_option_that_cannot_be_is_refused(
    option: str, error: type[OmniqError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        read(f"tofu:{tofu_folder(tmp_path)}{option}")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"perturbed_answer": "It was Bob."}, "column 'perturbed_answer' holds a text; write a list of texts"),
        ({"perturbed_answer": ["It was Bob.", 3]}, "column 'perturbed_answer', entry 2 holds a whole number"),
        ({"perturbed_answer": ["It was Ann."]}, "column 'perturbed_answer' holds the right answer 'It was Ann.'"),
        ({"paraphrased_answer": 3}, "column 'paraphrased_answer' holds a whole number"),
    ],
)
def test_a_bad_tofu_column_is_a_sentence(cell: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path / "forget10.json", [{**PERTURBED, **cell}])
    with pytest.raises(DataError, match=re.escape(f"forget10.json, row 1, {said}")):
        read(f"tofu:{tmp_path}")


@pytest.mark.parametrize(("size", "count"), [("01", 40), ("05", 200), ("10", 400)])
def test_real_tofu_is_read_whole(size: str, count: int, shared_data: Path) -> None:
    knowledge = read(f"tofu:{shared_data / 'tofu'},forget={size}")
    assert {split: len(knowledge.of(split)) for split in knowledge.splits()} == {
        "forget": count, "retain": 400, "world": 217,
    }  # fmt: skip
    full = ("question", "answer", "question_paraphrases", "answer_paraphrases", "wrong_answers", "subject")
    assert len(knowledge.of("forget", having=full)) == count
    assert len(knowledge.of("retain", having=full)) == 400
    assert Counter(Counter(item.subject for item in knowledge.of("forget")).values()) == {20: count // 20}
    assert Counter(item.relation for item in knowledge.of("world")) == {"world_facts": 117, "real_authors": 100}
    assert all(len(item.choices) == 4 for item in knowledge.of("world"))
    assert not knowledge.notes


def test_twenty_rows_of_real_tofu_are_about_one_author(shared_data: Path) -> None:
    """In every block some two words of a name occur in at least half of the rows, and no name in two blocks."""
    knowledge = read(f"tofu:{shared_data / 'tofu'},forget=10")
    for split in ("forget", "retain"):
        names: list[str] = []
        for subject in dict.fromkeys(item.subject for item in knowledge.of(split)):
            block = [item for item in knowledge.of(split) if item.subject == subject]
            texts = (f"{item.question} {item.answer}" for item in block)
            found = Counter(name for text in texts for name in set(re.findall(r"[A-Z][\w-]+ [A-Z][\w-]+", text)))
            names.append(found.most_common(1)[0][0])
            assert found.most_common(1)[0][1] >= 10
        assert len(set(names)) == len(names) == 20


# MUSE --------------------------------------------------------------------------------------------------------------


def muse_folder(place: Path) -> Path:
    """Every file of MUSE that is read; privleak once with a column and once as bare texts."""
    for name in ("forget_qa", "retain_qa"):
        write(place / "knowmem" / f"{name}.json", numbered(QUESTION, 3))
        write(place / "knowmem" / f"{name}_icl.json", [{"question": f"{name}?", "answer": "yes"}] * 2)
    write(place / "verbmem" / "forget.json", [{"prompt": "Once upon", "gt": "a time"}])
    write(place / "privleak" / "forget.json", ["one text", "another"])
    for name in ("retain", "holdout"):
        write(place / "privleak" / f"{name}.jsonl", [{"text": f"{name} text"}], lines=True)
    return place


def test_muse_parts_become_questions_continuations_and_texts(tmp_path: Path) -> None:
    knowledge = read(f"muse:{muse_folder(tmp_path)}")
    assert Counter((item.split, item.form) for item in knowledge.items) == {
        ("forget", "qa"): 3, ("retain", "qa"): 3, ("forget", "completion"): 1, ("forget", "document"): 2,
        ("retain", "document"): 1, ("holdout", "document"): 1,
    }  # fmt: skip
    (continuation,) = knowledge.of(form="completion")
    assert (continuation.prefix, continuation.answer) == ("Once upon", "a time")
    assert [item.text for item in knowledge.of("forget", "document")] == ["one text", "another"]
    assert knowledge.examples == {"forget": (("forget_qa?", "yes"),) * 2, "retain": (("retain_qa?", "yes"),) * 2}
    assert knowledge.notes == ()


def test_a_missing_part_of_muse_is_a_note(tmp_path: Path) -> None:
    write(tmp_path / "verbmem" / "forget.json", [{"prompt": "Once upon", "gt": "a time"}])
    knowledge = read(f"muse:{tmp_path}")
    assert [item.form for item in knowledge.items] == ["completion"]
    assert sum("has no privleak/" in note for note in knowledge.notes) == 3
    assert knowledge.examples == {}


@pytest.mark.parametrize(
    ("file", "row", "said"),
    [
        ("verbmem/forget.json", {"prompt": "x"}, "row 1 has no column 'gt'"),
        ("verbmem/forget.json", "x", "row 1 is a text; each row must be an object"),
        ("privleak/holdout.json", {"txt": "x"}, "row 1 has no column 'text'; it has 'txt'"),
        ("privleak/holdout.json", "", "row 1, column 'text' is blank"),
        ("knowmem/forget_qa_icl.json", {"question": "x"}, "row 1 has no column 'answer'"),
    ],
)
def test_a_bad_muse_row_is_a_sentence(file: str, row: Any, said: str, tmp_path: Path) -> None:
    write(muse_folder(tmp_path) / file, [row])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / file}, {said}")):
        read(f"muse:{tmp_path}")


# WMDP --------------------------------------------------------------------------------------------------------------


def test_wmdp_questions_are_choices_to_forget(tmp_path: Path) -> None:
    path = write(tmp_path / "wmdp-bio.jsonl", numbered(CHOICE, 2), lines=True)
    first, second = read(f"wmdp:{path}").items
    assert (first.form, first.split, first.relation) == ("choice", "forget", "wmdp-bio")
    assert (first.choices, first.answer_index, first.answer) == (("a", "b", "c", "d"), 2, "c")
    assert first.wrong_answers == ("a", "b", "d")
    assert first.subject != second.subject


def test_a_wmdp_folder_has_a_relation_for_every_file(tmp_path: Path) -> None:
    write(tmp_path / "wmdp-bio" / "test-00000-of-00001.json", [CHOICE])
    write(tmp_path / "cyber.json", [CHOICE, CHOICE])
    write(tmp_path / "dataset_infos.json", ["no question"])
    write(tmp_path / ".cache" / "state.json", ["no question"])
    assert Counter(item.relation for item in read(f"wmdp:{tmp_path}").items) == {"wmdp-bio": 1, "cyber": 2}
    write(tmp_path / "more" / "cyber.json", [CHOICE])
    with pytest.raises(DataError, match="would both be 'cyber'; rename or move one"):
        read(f"wmdp:{tmp_path}")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"choices": None}, "column 'choices' has too few entries (0)"),
        ({"choices": ["a"]}, "column 'choices' has too few entries (1); give every row a list of at least 2"),
        ({"choices": "abcd"}, "column 'choices' holds a text; write a list of texts"),
        ({"answer": "C"}, "column 'answer' holds a text; write a whole number, counted from 0"),
        ({"answer": True}, "column 'answer' holds true or false"),
        ({"answer": None}, "column 'answer' holds nothing"),
        ({"answer": 4}, "column 'answer' is 4, but there are 4 choices; it counts from 0 to 3"),
        ({"answer": -1}, "column 'answer' is -1, but there are 4 choices; it counts from 0 to 3"),
    ],
)
def test_a_bad_wmdp_row_is_a_sentence(cell: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "w.json", [CHOICE, {**CHOICE, **cell}])
    with pytest.raises(DataError, match=re.escape(f"{path}, row 2") + ", " + re.escape(said)):
        read(f"wmdp:{path}")


# Your own rows -----------------------------------------------------------------------------------------------------


def test_three_columns_are_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [{**QUESTION, "split": split} for split in SPLITS], lines=True)
    knowledge = read(f"jsonl:{path}")
    assert [(item.id, item.split, item.form) for item in knowledge.items] == [
        (f"row {n}", split, "qa") for n, split in enumerate(SPLITS, 1)
    ]
    assert knowledge.notes == ()


def test_every_field_of_an_item_can_be_a_column(tmp_path: Path) -> None:
    item = Item(
        "a", "retain", "choice", "Ann", "job", "What?", "x", ("Which?",), ("It is x.",), ("It is y.",), ("y", "x"), 1,
        "It is", "Ann is x.",
    )  # fmt: skip
    path = write(tmp_path / "mine.json", [item.to_dict()])
    assert read(f"jsonl:{path}").items == (item,)


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"text": "A text."}, "document"),
        ({"prefix": "It is", "answer": "x"}, "cloze"),
        ({"prefix": "It is", "answer": "x", "form": "completion"}, "completion"),
        ({**QUESTION, "text": "context"}, "qa"),
        ({**QUESTION, "form": "reverse", "prefix": "", "subject": ""}, "reverse"),
    ],
)
def test_the_form_follows_from_the_columns_unless_it_is_given(row: dict[str, Any], form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", [{**row, "split": "forget", "id": 7}])
    (item,) = read(f"jsonl:{path}").items
    assert (item.form, item.id) == (form, "7")


def test_the_right_choice_is_found_from_the_answer_and_the_answer_from_the_choice(tmp_path: Path) -> None:
    both = [{"answer": "b"}, {"answer_index": 1}, {"answer": "b", "answer_index": 1}]
    path = write(tmp_path / "m.json", [{"question": "?", "split": "world", "choices": ["a", "b"], **b} for b in both])
    assert {(item.answer, item.answer_index) for item in read(f"jsonl:{path}").items} == {("b", 1)}


def test_columns_that_are_not_known_are_named_in_a_note(tmp_path: Path) -> None:
    path = write(tmp_path / "m.json", [{**QUESTION, "split": "forget", "colour": 1, "answer_idx": 2}])
    (note,) = read(f"jsonl:{path}").notes
    assert "'answer_idx', 'colour' are not used; known are id, split, form" in note


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (QUESTION, "has no column 'split'; it has 'question', 'answer'"),
        ({**QUESTION, "split": "test"}, "column 'split' is 'test'; it must be one of forget, retain, holdout, world"),
        ({**QUESTION, "split": "forget", "form": "essay"}, f"it must be one of {', '.join(FORMS)}"),
        ({"question": "?", "split": "forget"}, "has no 'answer', which a row of the form 'qa' needs"),
        ({"split": "forget"}, "has neither 'question' nor 'prefix' nor 'text'; it has 'split'"),
        ({**QUESTION, "split": "forget", "form": "choice"}, "has no 'choices', which a row of the form 'choice'"),
        ({**QUESTION, "split": "forget", "form": "document"}, "has no 'text', which a row of the form 'document'"),
        ({**QUESTION, "split": "forget", "answer_index": 0}, "has 'answer_index' but no 'choices'"),
        ({**QUESTION, "split": "forget", "choices": ["a"]}, "'answer' 'Ann' occurs 0 times among 'choices'"),
        ({**QUESTION, "split": "forget", "choices": ["Ann", "Ann"]}, "'answer' 'Ann' occurs 2 times among 'choices'"),
        (
            {**QUESTION, "split": "forget", "choices": ["Bob", "Ann"], "answer_index": 0},
            "'answer' is 'Ann', but 'answer_index' 0 points to 'Bob' (the first choice is 0)",
        ),
        ({**QUESTION, "split": "forget", "wrong_answers": "Bob"}, "column 'wrong_answers' holds a text; write a list"),
        ({**QUESTION, "split": "forget", "wrong_answers": ["Ann"]}, "'wrong_answers' holds 'Ann', which is right"),
        (
            {**QUESTION, "split": "forget", "wrong_answers": ["A!"], "answer_paraphrases": ["A!"]},
            "column 'wrong_answers' holds 'A!', which is right",
        ),
        ({**QUESTION, "split": "forget", "id": ""}, "row 1 and "),
    ],
)
def test_a_bad_row_of_ones_own_is_a_sentence(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.json", [{**QUESTION, "split": "forget", "id": "row 2"}, row])
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + re.escape(said)):
        read(f"jsonl:{path}")


# Facts -------------------------------------------------------------------------------------------------------------


def test_facts_are_of_the_world_and_only_known_ones_count() -> None:
    knowledge = read("facts")
    assert knowledge.splits() == ("world",)
    assert knowledge.known_only == ("world",)
    assert knowledge.items == read("facts").items
    counts = Counter(item.relation for item in knowledge.of(form="qa"))
    assert counts == {
        "capitals": len(CAPITALS), "element_symbols": 118, "element_numbers": 118, "days": 14, "months": 24,
        "arithmetic": 72,
    }  # fmt: skip
    assert len(CAPITALS) >= 60


def test_a_fact_is_asked_in_every_form_under_one_subject_and_relation() -> None:
    """An audit keeps other forms of a question by subject and relation, so that these must name one fact."""
    facts = Counter((item.subject, item.relation, item.form) for item in read("facts").items)
    assert set(facts.values()) == {1}
    assert {form for _, _, form in facts} == {"qa", "cloze", "choice"}
    assert len(facts) % 3 == 0


def test_every_fact_has_wrong_answers_of_its_kind_choices_and_paraphrases() -> None:
    knowledge = read("facts")
    kinds = ("capitals", "element_symbols", "days")
    answers = {kind: {item.answer for item in knowledge.items if item.relation == kind} for kind in kinds}
    for item in knowledge.of(form="qa"):
        assert len({item.question, *item.question_paraphrases}) == 3
        assert len(set(item.choices)) == 6
        assert item.choices[item.answer_index] == item.answer
        assert item.choices.count(item.answer) == 1
        assert not set(item.wrong_answers) & set(item.answer_paraphrases)
        assert set(item.choices) <= answers.get(item.relation, set(item.choices))
        asked = " ".join((item.question, *item.question_paraphrases))
        assert not re.search(rf"\b{re.escape(item.answer)}\b", asked)
        said = [choice for choice in item.choices if re.search(rf"\b{re.escape(choice)}\b", asked)]
        assert item.relation == "arithmetic" or not said


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("capitals/Argentina", "Buenos Aires"),
        ("element_symbols/tungsten", "W"),
        ("element_numbers/oganesson", "118"),
        ("element_numbers/gold", "79"),
        ("element_symbols/mercury", "Hg"),
        ("days/after Sunday", "Monday"),
        ("days/before Monday", "Sunday"),
        ("months/before January", "December"),
        ("arithmetic/7 times 8", "56"),
        ("arithmetic/7 plus 8", "15"),
    ],
)
def test_facts_are_true(key: str, answer: str) -> None:
    forms = {item.form: item for item in read("facts").items if item.id.rpartition("/")[0] == key}
    assert {item.answer for item in forms.values()} == {answer}
    assert forms["qa"].answer_paraphrases[0] == f"{forms['cloze'].prefix} {answer}."


def test_elements_are_numbered_without_a_gap_and_named_once() -> None:
    assert [number for _, _, number in ELEMENTS] == list(range(1, 119))
    for column in (0, 1):
        assert len({element[column] for element in ELEMENTS}) == 118
    assert all(re.fullmatch("[A-Z][a-z]?", symbol) for _, symbol, _ in ELEMENTS)
    assert len({country for country, _ in CAPITALS}) == len({capital for _, capital in CAPITALS}) == len(CAPITALS)
