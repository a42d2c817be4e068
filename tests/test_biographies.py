"""Synthetic biographies: what is written and asked about invented people, as properties of every item."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from omniq.errors import DataError, UsageError
from omniq.knowledge.biographies import words
from omniq.knowledge.biographies.attributes import ATTRIBUTES
from omniq.knowledge.biographies.people import full_names, people, pools
from omniq.knowledge.biographies.settings import MOST_VALUES, BiographySettings, biography_settings, defaults
from omniq.knowledge.biographies.writing import FORMS, biographies, sentence
from omniq.knowledge.exports import tofu_rows, training_pairs, training_texts
from omniq.knowledge.items import Item, Knowledge
from omniq.knowledge.source import SOURCES, read

SMALL = "people=60,values=8"
PRONOUNS = {word for form in FORMS.values() for word in form[:3]}
VALUE_LISTS = {
    "birth_city": words.BIRTH_CITIES,
    "university": words.UNIVERSITIES,
    "major": words.MAJORS,
    "employer": words.EMPLOYERS,
    "employer_city": words.WORK_CITIES,
}
NAME_LISTS = (words.FIRST_NAMES, words.MIDDLE_NAMES, words.LAST_NAMES)


@pytest.fixture(scope="module")
def small() -> Knowledge:
    """Sixty people: 12 to forget, 36 to retain, 12 never taught."""
    return read(f"synthetic:{SMALL}")


def said_by(item: Item) -> list[str]:
    """Every text of an item that a model could read or be taught."""
    texts = (item.question, item.answer, item.prefix, item.text, *item.question_paraphrases, *item.answer_paraphrases)
    return [text for text in (*texts, *item.wrong_answers, *item.choices) if text]


def values_of(knowledge: Knowledge) -> dict[str, dict[str, str]]:
    """Name -> attribute -> value, read from the qa items."""
    found: dict[str, dict[str, str]] = {}
    for item in knowledge.of(form="qa"):
        found.setdefault(item.subject, {})[item.relation] = item.answer
    return found


# The same always, and different otherwise --------------------------------------------------------------------------


def test_the_same_argument_gives_the_same_bytes_in_another_process_with_other_hashes(small: Knowledge) -> None:
    code = (
        "import json, sys; from omniq.knowledge.source import read; "
        f"print(json.dumps([i.to_dict() for i in read('synthetic:{SMALL}').items])); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-Pc", code], capture_output=True, check=True, env={"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.decode().strip() == json.dumps([item.to_dict() for item in small.items])


def test_another_seed_gives_other_people_with_other_values(small: Knowledge) -> None:
    other = values_of(read(f"synthetic:{SMALL},seed=1"))
    assert not set(other) & set(values_of(small))
    assert {v["birth_date"] for v in other.values()} != {v["birth_date"] for v in values_of(small).values()}


def test_what_is_said_of_the_defaults_is_what_is_read() -> None:
    assert biography_settings(",".join(f"{k}={v}" for k, v in defaults().items())) == BiographySettings()
    assert biography_settings("") == BiographySettings()
    assert read("synthetic").items == read("synthetic:" + SOURCES["synthetic"].argument).items


# People ------------------------------------------------------------------------------------------------------------


def test_full_names_are_unique_however_many_people_there_are() -> None:
    names = full_names(BiographySettings(people=20_000))
    assert len(set(names)) == 20_000
    assert all(len(name.split()) == 3 for name in names)


def test_people_are_split_by_the_shares_asked_for() -> None:
    everyone = people(BiographySettings(people=100, forget=0.25, holdout=0.15))
    assert Counter(person.split for person in everyone) == {"forget": 25, "retain": 60, "holdout": 15}


def test_a_group_may_be_left_out() -> None:
    assert read("synthetic:people=20,forget=0,holdout=0").splits() == ("retain",)


def test_values_do_not_depend_on_the_split_or_on_one_another() -> None:
    """Chi-squared over 8 x 8 and 8 x 3 tables of 4000 people: far below the bound that one in a million exceeds."""
    everyone = people(BiographySettings(people=4000, values=8))
    for first, second, bound in (("birth_city", "major", 110), ("university", "employer", 110), ("major", None, 55)):
        pairs = Counter((p.values[first], p.values[second] if second else p.split) for p in everyone)
        left, right = (Counter(dict.fromkeys({pair[i] for pair in pairs}, 0)) for i in (0, 1))
        for (a, b), count in pairs.items():
            left[a] += count
            right[b] += count
        expected = {(a, b): left[a] * right[b] / len(everyone) for a in left for b in right}
        assert sum((pairs[cell] - e) ** 2 / e for cell, e in expected.items()) < bound


def test_the_employer_decides_the_city_and_cities_are_shared() -> None:
    everyone = people(BiographySettings(people=600, values=12))
    seats = {(p.values["employer"], p.values["employer_city"]) for p in everyone}
    assert len(seats) == len({employer for employer, _ in seats}) == 12
    assert len({city for _, city in seats}) == 8


@pytest.mark.parametrize("count", [6, 10, MOST_VALUES])
def test_an_attribute_has_as_many_values_as_asked_for(count: int) -> None:
    sizes = {name: len(set(values)) for name, values in pools(BiographySettings(values=count)).values.items()}
    assert sizes.pop("employer_city") == max(6, -(-2 * count // 3))
    assert set(sizes.values()) == {count}


@pytest.mark.parametrize("count", range(1, 7))
def test_only_the_attributes_asked_for_occur(count: int) -> None:
    knowledge = read(f"synthetic:people=30,attributes={count}")
    assert {item.relation for item in knowledge.of(form="qa")} == {a.name for a in ATTRIBUTES[:count]}
    assert all(len(re.findall(r"\.(?: |$)", item.text)) == count for item in knowledge.of(form="document"))


# Words -------------------------------------------------------------------------------------------------------------


def test_no_word_of_a_name_is_a_word_of_a_value() -> None:
    names = {word.lower() for names in NAME_LISTS for word in names}
    values = " ".join(value for values in (*VALUE_LISTS.values(), words.MONTHS) for value in values).lower().split()
    assert len(names) == sum(map(len, NAME_LISTS))
    assert names & set(values) == set()


def test_no_value_is_part_of_another() -> None:
    values = [value.lower() for values in VALUE_LISTS.values() for value in values]
    assert [(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j and a in b] == []


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.name)
def test_an_attribute_has_enough_words_of_every_kind(attribute) -> None:
    assert len(set(attribute.sentences)) >= 8
    assert len(set(attribute.paraphrases) | {attribute.question}) >= 3
    assert len(set(attribute.statements)) >= 2
    for words_ in attribute.sentences:
        assert words_.count("{value}") == 1
        assert len(re.findall(r"\{(?:Who|who|whom|Whose|whose)\}", words_)) == 1
    for text in (*attribute.statements, attribute.question, *attribute.paraphrases, attribute.prefix):
        assert text.count("{name}") == 1
    assert all(text.count("{value}") == 1 for text in (*attribute.statements, attribute.clause))


def test_every_sentence_agrees_with_its_pronoun_and_begins_with_a_capital() -> None:
    everyone = {person.pronoun: person for person in people(BiographySettings())}
    for pronoun, person in everyone.items():
        for attribute in ATTRIBUTES:
            for template in attribute.sentences:
                text = sentence(template, person, "Xyz", named=False)
                assert text[0].isupper()
                assert "{" not in text
                assert ("they was" in text.lower(), "he were" in text.lower()) == (False, False)
                assert len(set(re.findall(r"\w+", text.lower())) & set(FORMS[pronoun][:3])) >= 1


# Biographies -------------------------------------------------------------------------------------------------------


def documents(settings: BiographySettings) -> list[tuple]:
    """(person, biography) of everyone."""
    return [(person, text) for person in people(settings) for text in biographies(person, settings)]


def sentences(text: str) -> list[str]:
    """The sentences of a biography; no value has a full stop."""
    return [part.strip(" .") for part in text.split(". ")]


def told(person, text: str) -> list[str]:
    """The attributes of a biography in the order in which it tells them."""
    found = []
    for part in sentences(text):
        (name,) = (name for name, value in person.values.items() if value in part)
        found.append(name)
    return found


@pytest.mark.parametrize("permute", [False, True])
def test_a_biography_tells_every_attribute_once_and_names_the_person_in_its_first_sentence_only(permute: bool) -> None:
    for person, text in documents(BiographySettings(people=40, permute=permute)):
        assert sorted(told(person, text)) == sorted(person.values)
        assert text.count(person.name) == 1
        assert person.name in sentences(text)[0]
        assert all(set(re.findall(r"\w+", part.lower())) & PRONOUNS for part in sentences(text)[1:])


def test_fullname_replaces_every_pronoun() -> None:
    for person, text in documents(BiographySettings(people=40, fullname=True)):
        assert text.count(person.name) == 6
        assert not set(re.findall(r"\w+", text.lower())) & PRONOUNS


def test_fullname_changes_nothing_else() -> None:
    plain, named = (documents(BiographySettings(people=40, fullname=on)) for on in (False, True))
    assert [told(*pair) for pair in plain] == [told(*pair) for pair in named]


def test_without_permute_the_order_is_fixed_and_with_it_every_order_is_as_likely() -> None:
    fixed = {tuple(told(*pair)) for pair in documents(BiographySettings(people=40, permute=False))}
    assert fixed == {tuple(a.name for a in ATTRIBUTES)}
    shuffled = [told(*pair) for pair in documents(BiographySettings(people=400))]
    first = Counter(order[0] for order in shuffled)
    assert all(150 < first[a.name] < 250 for a in ATTRIBUTES), first  # 200 expected, deviation 13


def test_coupled_pairs_stay_together_and_keep_their_order_while_pairs_are_shuffled() -> None:
    orders = [told(*pair) for pair in documents(BiographySettings(people=100, couple=True))]
    pairs = {(a.name, b.name) for a, b in zip(ATTRIBUTES[::2], ATTRIBUTES[1::2], strict=True)}
    assert all({(order[i], order[i + 1]) for i in (0, 2, 4)} == pairs for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_the_biographies_of_a_person_differ_and_do_not_repeat_a_sentence_before_all_have_been_used() -> None:
    settings = BiographySettings(people=30, multi=10, permute=False)
    for person in people(settings):
        texts = biographies(person, settings)
        assert len(set(texts)) == 10
        neutral = [re.sub(r"\b(he|him|his|she|her|they|them|their|were|was)\b", "*", text.lower()) for text in texts]
        unnamed = [text.replace(f"{person.name.lower()}'s", "*").replace(person.name.lower(), "*") for text in neutral]
        for place in range(6):
            assert len({sentences(text)[place] for text in unnamed}) >= 8


def test_multi_is_the_number_of_biographies() -> None:
    knowledge = read("synthetic:people=20,multi=2,holdout=0,forget=0")
    assert Counter(Counter(item.subject for item in knowledge.of(form="document")).values()) == {2: 20}


# Questions ---------------------------------------------------------------------------------------------------------


def test_everyone_is_asked_everything(small: Knowledge) -> None:
    counts = Counter(item.form for item in small.items)
    assert counts == {"qa": 360, "cloze": 360, "choice": 360, "true_false": 360, "document": 180, "reverse": 60}
    assert not small.notes


def test_no_question_or_prefix_holds_its_answer(small: Knowledge) -> None:
    for item in small.items:
        if item.form != "true_false":
            asked = (item.question, item.prefix, *item.question_paraphrases)
            assert not any(item.answer and item.answer in text for text in asked)


def test_the_right_answer_stands_once_among_choices_and_never_among_wrong_answers(small: Knowledge) -> None:
    for item in small.items:
        if item.choices:
            assert item.choices.count(item.answer) == 1
            assert item.choices[item.answer_index] == item.answer
            assert len(set(item.choices)) == len(item.choices)
        assert not set(item.wrong_answers) & {item.answer, *item.answer_paraphrases}
        assert len(set(item.wrong_answers)) == len(item.wrong_answers)


def test_choices_are_values_of_the_same_attribute_and_the_right_one_stands_anywhere(small: Knowledge) -> None:
    known = pools(biography_settings(SMALL)).values
    for form, count in (("qa", 6), ("choice", 4)):
        places = Counter(item.answer_index for item in small.of(form=form))
        assert set(places) == set(range(count))
        assert max(places.values()) < 1.5 * 360 / count
        assert all(len(i.choices) == count and set(i.choices) <= set(known[i.relation]) for i in small.of(form=form))


@pytest.mark.parametrize("form", ["qa", "reverse"])
def test_wrong_answers_are_the_first_paraphrase_with_a_wrong_value(small: Knowledge, form: str) -> None:
    for item in small.of(form=form):
        before, _, after = item.answer_paraphrases[0].rpartition(item.answer)
        assert len(item.wrong_answers) == 5
        for wrong in item.wrong_answers:
            value = wrong[len(before) : len(wrong) - len(after)]
            assert wrong == before + value + after
            assert value != item.answer
            assert form == "reverse" or value in item.choices
        assert all(item.answer in paraphrase for paraphrase in item.answer_paraphrases)


def test_questions_and_answers_have_paraphrases_that_differ(small: Knowledge) -> None:
    for item in small.of(form="qa"):
        assert len({item.question, *item.question_paraphrases}) >= 3
        assert len({item.answer, *item.answer_paraphrases}) >= 3


def test_statements_are_true_or_false_in_equal_numbers_and_say_so_rightly(small: Knowledge) -> None:
    truth = values_of(small)
    for split in small.splits():
        for attribute in ATTRIBUTES:
            group = [item for item in small.of(split, "true_false") if item.relation == attribute.name]
            assert abs(sum(1 if item.answer == "true" else -1 for item in group)) <= 1
            for item in group:
                assert item.choices == ("true", "false")
                assert (truth[item.subject][attribute.name] in item.question) == (item.answer == "true")


def test_a_reverse_question_fits_one_person_alone(small: Knowledge) -> None:
    truth = values_of(small)
    for item in small.of(form="reverse"):
        # A value that is told, by its clause, so that a birth city is not taken for a workplace.
        used = [a for a in ATTRIBUTES if a.clause.replace("{value}", truth[item.subject][a.name]) in item.question]
        own = [truth[item.subject][a.name] for a in used]
        fitting = [name for name, values in truth.items() if [values[a.name] for a in used] == own]
        assert fitting == [item.subject] == [item.answer]


def test_people_whom_nothing_tells_apart_have_no_reverse_question_and_a_note_says_how_many() -> None:
    knowledge = read("synthetic:people=40,attributes=1,values=6,forget=0,holdout=0")
    shared = Counter(item.answer for item in knowledge.of(form="qa"))
    assert min(shared.values()) > 1
    assert not knowledge.of(form="reverse")
    assert knowledge.notes == ("40 of 40 people share every attribute with someone; they have no reverse question.",)


@pytest.mark.parametrize("split", ["forget", "retain", "holdout"])
def test_nobody_of_one_split_occurs_in_the_texts_of_another(small: Knowledge, split: str) -> None:
    outsiders = {item.subject for item in small.items if item.split != split}
    everything = "\n".join(text for item in small.of(split) for text in said_by(item))
    assert not [name for name in outsiders if name in everything]
    assert all(item.subject in everything for item in small.of(split))


# In other forms ----------------------------------------------------------------------------------------------------


def test_tofu_columns_are_those_of_tofu(small: Knowledge) -> None:
    table = tofu_rows(small, "forget")
    assert len(table) == 72
    for row, item in zip(table, small.of("forget", "qa"), strict=True):
        assert list(row) == ["question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question"]
        assert (row["question"], row["answer"]) == (item.question, item.answer)
        assert row["answer"] in row["paraphrased_answer"]
        assert all(row["answer"] not in wrong for wrong in row["perturbed_answer"])
        assert len(row["perturbed_answer"]) == 5
        assert row["paraphrased_question"] == item.question_paraphrases[0]


def test_tofu_columns_written_to_files_are_read_back_as_the_same_questions(small: Knowledge, tmp_path) -> None:
    for name, split in (("forget10_perturbed", "forget"), ("retain_perturbed", "retain"), ("holdout10", "holdout")):
        (tmp_path / f"{name}.json").write_text(json.dumps(tofu_rows(small, split)))
    back = read(f"tofu:{tmp_path}")
    for split in ("forget", "retain", "holdout"):
        ours, theirs = small.of(split, "qa"), back.of(split, "qa")
        assert [(i.question, i.answer, i.wrong_answers) for i in ours] == [
            (i.question, i.answer, i.wrong_answers) for i in theirs
        ]


def test_a_split_without_questions_has_no_tofu_rows(small: Knowledge) -> None:
    with pytest.raises(DataError, match="no question of the split 'world'; its splits are forget, retain, holdout"):
        tofu_rows(small, "world")


def test_training_texts_are_the_biographies_and_pairs_the_questions(small: Knowledge) -> None:
    assert list(training_texts(small, "forget")) == [i.text for i in small.items if i.text and i.split == "forget"]
    pairs, truth = training_pairs(small, "retain"), values_of(small)
    assert len(pairs) == 36 * 6
    assert all(any(answer in values.values() for name, values in truth.items() if name in q) for q, answer in pairs)


# What cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "sentence_part"),
    [
        ("peeple=20", "no option 'peeple'; did you mean people?"),
        ("zzz=1", "no option 'zzz'. It has seed, people"),
        ("people", "options are written name=value"),
        ("people=", "options are written name=value"),
        ("people=many", "people=many is not a whole number; the default is 200"),
        ("forget=a fifth", "is not a number such as 0.2"),
        ("forget=nan", "forget is nan; it is a share"),
        ("forget=1", "forget is 1.0; it is a share"),
        ("holdout=-0.1", "holdout is -0.1; it is a share"),
        ("permute=yes", "permute=yes is not true or false"),
        ("people=20,people=30", "people is given twice"),
        ("people=5", "people is 5; it must be from 12 to 20000"),
        ("people=1000000", "must be from 12 to 20000"),
        ("values=5", "values is 5; it must be from 6 to 60"),
        ("attributes=7", "attributes is 7; it must be from 1 to 6"),
        ("multi=0", "multi is 0; it must be from 1"),
        ("people=20", "leave 4 in forget"),
        ("forget=0.48,holdout=0.5", "leave 4 in retain"),
        ("people=12,forget=0.499,holdout=0.5", "leave 0 in retain"),
        ("forget=0.5,holdout=0.5", "leave nobody to retain"),
        ("forget=0.6,holdout=0.6", "must be less than 1 together"),
        ("couple=true,permute=false", "add permute=true"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_a_sentence(argument: str, sentence_part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence_part)):
        read(f"synthetic:{argument}")
