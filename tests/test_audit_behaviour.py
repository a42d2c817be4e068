"""The behaviour evaluators on subjects whose every answer and probability is known, and on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from audit_subjects import StubSubject, by_metric, make_context, people, reasons, tiny_subject

from omniq.audit.asking import candidates, completed, scored, true_side
from omniq.audit.base import EVALUATORS, Context, Found, Measurement, Metric, Missing, measurement
from omniq.audit.evaluators import icl, knowmem, mcq, overforget, paraphrase, qa_gen, qa_ll, verbmem
from omniq.audit.rows import rows
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.options import next_logp, option_logp
from omniq.subject.template import Template

OWN = {
    "qa_gen": qa_gen, "qa_ll": qa_ll, "paraphrase": paraphrase, "mcq": mcq, "verbmem": verbmem, "knowmem": knowmem,
    "overforget": overforget, "icl": icl,
}  # fmt: skip


def observe(name: str, subject: object, context: Context) -> Found:
    """What an evaluator finds; kept in the context, as an audit does."""
    found = EVALUATORS[name].observe(subject, context)
    context.measured.setdefault(context.name, {})[name] = found
    return found


def one(*items: Item, **more: object) -> Knowledge:
    """Knowledge of these items."""
    return Knowledge("mine", items, **more)


def oracle(knowledge: Knowledge, right: Callable[[Item], bool] = lambda item: True) -> Callable[[str], str]:
    """Writes the answer of the item whose question or prefix ends the prompt, where it is one of the `right` ones."""

    def written(prompt: str) -> str:
        for item in knowledge.items:
            asked = item.prefix if item.form == "cloze" else item.question
            if asked and (prompt.endswith(asked) or f"{asked}\nAnswer:" in prompt) and right(item):
                return f"{item.answer}."
        return "Nothing"

    return written


def likes(*known: str) -> Callable[[str, str], list[tuple[float, int]]]:
    """Scores: 0.8 and greedy for every word of an answer that holds one of the known words, else 0.1 and rank 3."""

    def score(_: str, answer: str) -> list[tuple[float, int]]:
        sure = any(word in answer for word in known)
        return [(math.log(0.8), 0) if sure else (math.log(0.1), 3)] * len(answer.split())

    return score


@pytest.mark.parametrize("name", OWN)
def test_an_evaluator_gives_only_metrics_it_names_and_finite_numbers(name: str) -> None:
    knowledge, subject = people(2), tiny_subject()
    context = make_context(knowledge, settings={"answer_tokens": 4})
    if EVALUATORS[name].after:
        observe("qa_gen", subject, context)
    found = observe(name, subject, context)
    named = {metric.name for metric in EVALUATORS[name].metrics}
    assert len(named) == len(EVALUATORS[name].metrics)
    assert {row.metric.name if isinstance(row, Measurement) else row.metric for row in found} == named
    for row in found:
        if isinstance(row, Measurement):
            assert row.metric in EVALUATORS[name].metrics
            assert np.isfinite(row.values).all()
            assert len(row.items) == len(row.values) == len(row.texts or row.items)
            assert not row.metric.binary or set(row.values) <= {0.0, 1.0}
    keys = [row.key for row in found if isinstance(row, Measurement)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", OWN)
def test_an_evaluator_finds_the_same_whatever_the_batch_size(name: str) -> None:
    knowledge = people(1, ("forget", "holdout"))
    results = []
    for size in (2048, 1):
        subject = replace(tiny_subject(), batch_tokens=size)
        context = make_context(knowledge, settings={"answer_tokens": 4})
        observe("qa_gen", subject, context)
        results.append([row for row in observe(name, subject, context) if isinstance(row, Measurement)])
    for row, other in zip(*results, strict=True):
        assert row.key == other.key
        np.testing.assert_allclose(row.values, other.values, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", OWN)
def test_data_without_what_is_needed_is_missing_with_a_reason_not_zero(name: str) -> None:
    knowledge = one(Item("d", "forget", "document", text="Some text about nothing at all."))
    found = observe(name, StubSubject(), make_context(knowledge))
    assert {row.metric for row in found} == {metric.name for metric in EVALUATORS[name].metrics}
    assert all(isinstance(row, Missing) and " no " in row.reason for row in found)


def test_a_missing_column_is_named() -> None:
    bare = Item("a", "forget", question="Who?", answer="Ada")
    rich = replace(bare, id="b", split="retain", wrong_answers=("Bob",), question_paraphrases=("Whose?",))
    context = make_context(one(bare, rich))
    why = reasons(observe("qa_ll", StubSubject(), context) + observe("paraphrase", StubSubject(), context))
    assert why["tr_paper", "forget"] == "mine forget items of the form qa have no wrong_answers"
    assert why["mc_acc", "forget"]
    assert why["consistency", "forget"] == "mine forget items of the form qa have no question_paraphrases"
    assert why["p_at_1_cloze", ""] == "mine has no items of the form cloze"


def test_written_answers_are_compared_with_the_right_ones() -> None:
    knowledge = people(8, ("forget", "retain"))
    subject = StubSubject(oracle(knowledge, lambda item: item.relation == "city"))
    found = observe("qa_gen", subject, make_context(knowledge))
    for split in ("forget", "retain"):
        rows = by_metric(found, split)
        for name in ("em", "contains", "rouge_recall", "rouge_f1", "em_cloze", "contains_cloze"):
            assert rows[name].values.mean() == 0.5, name
            assert by_metric(found, split, "city")[name].values.mean() == 1.0
            assert by_metric(found, split, "trade")[name].values.mean() == 0.0
        assert rows["refusal"].values.mean() == 0.0
        # An answer of one word says nothing of fluency.
        assert "fluency" not in rows
        assert reasons(found)["fluency", split] == "no item gave a finite number"
    assert reasons(found)["em_reverse", ""] == "people has no items of the form reverse"


def test_texts_are_kept_beside_contains_alone_and_in_order() -> None:
    knowledge = people(8, ("forget",))
    found = observe("qa_gen", StubSubject(oracle(knowledge)), make_context(knowledge))
    kept = [row for row in found if isinstance(row, Measurement) and row.texts]
    assert {(row.metric.name, row.attribute) for row in kept} == {("contains", ""), ("contains_cloze", "")}
    answers = {item.id: f"{item.answer}." for item in knowledge.items}
    assert all(row.texts == tuple(answers[item] for item in row.items) for row in kept)


def test_an_answer_ends_where_a_plain_model_asks_itself_the_next_question() -> None:
    item = Item("a", "forget", question="Who?", answer="Ada Lovelace")
    for text in ("Ada Lovelace\nQuestion: Who", "Ada Lovelace\n\nThe end"):
        row = by_metric(observe("qa_gen", StubSubject(lambda _, t=text: t), make_context(one(item))), "forget")["em"]
        assert row.values.tolist() == [1.0]


def test_a_chat_models_answer_may_have_paragraphs() -> None:
    item = Item("a", "forget", question="Who?", answer="Ada")
    chat = Template("chat", lambda question: f"<u>{question}<a>", "", "<end>")
    subject = StubSubject(lambda _: "Well.\n\nAda.<end>Bob", template=chat)
    rows = by_metric(observe("qa_gen", subject, make_context(one(item))), "forget")
    assert (rows["contains"].values.tolist(), rows["contains"].texts) == ([1.0], ("Well.\n\nAda.",))
    assert subject.asked == ["<u>Who?<a>"]


def test_reverse_questions_and_refusals_are_counted() -> None:
    items = (
        Item("r", "forget", "reverse", question="Who lives in Oslo?", answer="Ada"),
        Item("q", "forget", question="Where does Ada live?", answer="Oslo"),
        Item("p", "forget", question="Where does Bob live?", answer="Lima"),
    )
    says = {"Who lives": "Ada", "Where does Ada": "I'm sorry, I don't know.", "Where does Bob": "Bob lives in old Lima"}
    subject = StubSubject(lambda prompt: next(text for start, text in says.items() if start in prompt))
    rows = by_metric(observe("qa_gen", subject, make_context(one(*items))), "forget")
    assert rows["em_reverse"].values.tolist() == rows["contains_reverse"].values.tolist() == [1.0]
    assert rows["refusal"].values.tolist() == [1.0, 0.0]
    assert rows["contains"].values.tolist() == [0.0, 1.0]
    assert rows["em"].values.tolist() == [0.0, 0.0]
    assert rows["rouge_f1"].values.tolist() == pytest.approx([0.0, 2 / 6])
    assert rows["fluency"].values[1] == pytest.approx(math.log2(4) / 3 + 2 * math.log2(3) / 3)


def test_a_cloze_leaves_the_space_to_the_answer() -> None:
    item = Item("a", "world", "cloze", prefix="The capital of Peru is ", answer="Lima")
    assert completed(item, "Lima") == ("The capital of Peru is", " Lima")
    subject = StubSubject(lambda _: "Lima, on the coast")
    found = by_metric(observe("qa_gen", subject, make_context(one(item))), "world")
    assert (found["em_cloze"].values.tolist(), subject.asked) == ([1.0], ["The capital of Peru is"])


def given(**logs: float) -> Callable[[str, str], list[tuple[float, int]]]:
    """Scores one word answers by these probabilities; the likeliest of all is the greedy one."""

    def score(_: str, answer: str) -> list[tuple[float, int]]:
        p = logs[answer.strip()]
        return [(math.log(p), sum(other > p for other in logs.values()))]

    return score


QUESTION = Item(
    "a", "forget", question="Where?", answer="Oslo", answer_paraphrases=("Kristiania",), wrong_answers=("Lima", "Quito")
)


def test_the_truth_ratio_puts_wrong_answers_beside_the_paraphrase() -> None:
    subject = StubSubject(scores=given(Oslo=0.6, Kristiania=0.2, Lima=0.1, Quito=0.4))
    rows = by_metric(observe("qa_ll", subject, make_context(one(QUESTION))), "forget")
    values = {name: row.values.item() for name, row in rows.items()}
    assert values == pytest.approx(
        {
            "prob": 0.6, "es": 1.0, "exact_memorisation": 1.0, "first_rank": 1, "p_at_1": 1.0,
            "tr_paper": 0.25 / 0.2, "tr_geometric": 0.2 / 0.2, "tr_prob_mean": 0.5, "tr_forget_quality": 1.0,
            "mc_acc": 0.0, "mc_margin": math.log(0.2 / 0.4),
        }
    )  # fmt: skip
    assert (rows["tr_prob_mean"].chance, rows["mc_acc"].chance) == (0.5, pytest.approx(1 / 3))


def test_a_world_item_is_its_own_true_side_and_normalised_by_the_wrong_answers() -> None:
    item = replace(QUESTION, split="world", answer_paraphrases=())
    subject = StubSubject(scores=given(Oslo=0.4, Lima=0.1, Quito=0.1))
    rows = by_metric(observe("qa_ll", subject, make_context(one(item))), "world")
    assert true_side(item) == "Oslo"
    assert rows["prob_normalised"].values.item() == pytest.approx(0.4 / 0.6)
    assert rows["tr_true_better"].values.item() == pytest.approx(0.75)
    assert rows["mc_acc"].values.item() == 1.0
    assert "answer itself" in rows["tr_paper"].note
    assert "tr_forget_quality" not in rows


def test_choices_stand_before_wrong_sentences_as_candidates() -> None:
    item = replace(QUESTION, choices=("Lima", "Oslo"), answer_index=1)
    assert candidates(item) == (("Lima", "Oslo"), 1)
    assert candidates(QUESTION) == (("Kristiania", "Lima", "Quito"), 0)
    assert candidates(replace(QUESTION, wrong_answers=())) == ((), 0)


def test_a_tie_with_a_wrong_answer_is_not_right() -> None:
    subject = StubSubject(scores=given(Oslo=0.4, Kristiania=0.3, Lima=0.3, Quito=0.1))
    assert by_metric(observe("qa_ll", subject, make_context(one(QUESTION))), "forget")["mc_acc"].values.item() == 0.0


def test_lama_looks_at_the_first_token_of_a_cloze() -> None:
    items = [Item(name, "world", "cloze", prefix="It is", answer=name) for name in ("Oslo", "Lima")]
    found = observe("qa_ll", StubSubject(scores=given(Oslo=0.6, Lima=0.2)), make_context(one(*items)))
    assert by_metric(found, "world")["p_at_1_cloze"].values.tolist() == [1.0, 0.0]


def tofu(sizes: int = 8) -> Knowledge:
    """Retain questions, real authors and world facts, `sizes` of each."""
    common = {"question": "Where?", "answer": "Oslo", "wrong_answers": ("Lima", "Quito")}
    places = (("retain", ""), ("world", "real_authors"), ("world", "world_facts"))
    return one(*(Item(f"{s}{r}{i}", s, relation=r, **common) for s, r in places for i in range(sizes)))


def test_model_utility_is_the_harmonic_mean_of_nine_numbers() -> None:
    subject = StubSubject(lambda _: "Oslo", given(Oslo=0.4, Lima=0.2, Quito=0.2))
    context = make_context(tofu())
    observe("qa_gen", subject, context)
    found = observe("qa_ll", subject, context)
    # Probabilities 0.4, 0.5, 0.5 (normalised), ROUGE 1 and truth 0.5 three times each.
    wanted = 9 / (1 / 0.4 + 2 / 0.5 + 3 / 1 + 3 / 0.5)
    assert by_metric(found, "retain")["model_utility"].values.item() == pytest.approx(wanted)


def test_model_utility_is_zero_where_a_part_is() -> None:
    context = make_context(tofu())
    subject = StubSubject(lambda _: "Nothing", given(Oslo=0.4, Lima=0.2, Quito=0.2))
    observe("qa_gen", subject, context)
    assert by_metric(observe("qa_ll", subject, context), "retain")["model_utility"].values.item() == 0.0


def test_model_utility_needs_all_nine_parts() -> None:
    context = make_context(tofu())
    subject = StubSubject(lambda _: "Oslo", given(Oslo=0.4, Lima=0.2, Quito=0.2))
    why = reasons(observe("qa_ll", subject, context))["model_utility", "retain"]
    assert why == "TOFU's model utility is made of nine numbers, of which there is no rouge_recall retain"


def test_scores_are_shared_between_evaluators_but_never_between_models() -> None:
    knowledge = one(replace(QUESTION, choices=("Oslo", "Lima"), answer_index=0))
    first, second = (StubSubject(scores=given(Oslo=p, Kristiania=0.2, Lima=0.1, Quito=0.4)) for p in (0.6, 0.05))
    context = make_context(knowledge)
    observe("qa_ll", first, context)
    asked = list(first.scored)
    assert len(set(asked)) == len(asked)
    mcq.by_text(first, context, knowledge.items)
    assert first.scored == asked
    found = by_metric(observe("qa_ll", second, context), "forget")
    assert found["prob"].values.item() == pytest.approx(0.05)
    assert by_metric(observe("qa_ll", first, context), "forget")["prob"].values.item() == pytest.approx(0.6)


def test_no_more_than_text_tokens_of_an_answer_are_scored() -> None:
    subject = StubSubject(scores=likes("word"))
    pair = ("one two", "word " * 50)
    (result,) = scored(subject, make_context(one(QUESTION), settings={"text_tokens": 12}), [pair])
    assert len(result.ids) == 10


def worded(prompt: str, answer: str) -> list[tuple[float, int]]:
    """Likes Oslo when asked Where or In, Lima when asked At."""
    liked = "Lima" if "At which" in prompt else "Oslo"
    return [(math.log(0.5), 0) if liked in answer else (math.log(0.25), 1)]


def test_consistency_counts_pairs_of_wordings_with_one_choice() -> None:
    item = replace(QUESTION, answer_paraphrases=(), question_paraphrases=("In which?", "At which?"))
    rows = by_metric(observe("paraphrase", StubSubject(scores=worded), make_context(one(item))), "forget")
    assert {name: row.values.item() for name, row in rows.items()} == pytest.approx(
        {"prob": 0.375, "es": 0.5, "mc_acc": 0.5, "consistency": 1 / 3, "consistent_accuracy": 0.0}
    )
    same = replace(item, question_paraphrases=("In which?",))
    rows = by_metric(observe("paraphrase", StubSubject(scores=worded), make_context(one(same))), "forget")
    assert (rows["consistency"].values.item(), rows["consistent_accuracy"].values.item()) == (1.0, 1.0)


def test_consistency_is_about_a_few_candidates_with_the_right_one_among_them() -> None:
    cities = ("Lima", "Quito", "Delhi", "Cairo", "Accra", "Oslo")
    item = replace(QUESTION, choices=cities, answer_index=5, question_paraphrases=("In which?",))
    assert paraphrase.shortlist(item) == ("Lima", "Quito", "Delhi", "Oslo")
    subject = StubSubject(scores=worded)
    row = by_metric(observe("paraphrase", subject, make_context(one(item))), "forget")["mc_acc"]
    assert (row.values.item(), row.chance) == (1.0, 0.25)
    assert {answer for _, answer in subject.scored} == {" Oslo", " Lima", " Quito", " Delhi"}


def test_verbatim_memory_compares_with_as_many_tokens_as_are_written() -> None:
    text = " ".join(f"w{i}" for i in range(300))
    item = Item("a", "forget", "completion", prefix="Once upon", answer=text)
    found = by_metric(observe("verbmem", StubSubject(lambda _: text), make_context(one(item))), "forget")
    assert found["verbmem"].values.item() == 1.0
    assert len(found["verbmem"].texts[0].split()) == verbmem.TOKENS
    subject = StubSubject(lambda _: text[: text.index(" w64")])
    half = by_metric(observe("verbmem", subject, make_context(one(item))), "forget")
    assert half["verbmem"].values.item() == pytest.approx(2 * 64 / (64 + 128))


def test_knowledge_memory_is_asked_after_solved_examples_and_the_space_is_left_to_the_answer() -> None:
    item = Item("a", "forget", question="Where is Ada?", answer="in Oslo today")
    examples = {"forget": (("Who is A?", "B"), ("Who is C?", "D"))}
    subject = StubSubject(lambda _: "in Oslo\n\nQuestion: Who?")
    knowledge = one(item, replace(item, id="b", split="retain"), examples=examples)
    found = observe("knowmem", subject, make_context(knowledge))
    assert subject.asked == [
        "Question: Who is A?\nAnswer: B\n\nQuestion: Who is C?\nAnswer: D\n\nQuestion: Where is Ada?\nAnswer:"
    ]
    assert by_metric(found, "forget")["knowmem"].values.item() == pytest.approx(2 * 2 / 5)
    assert reasons(found)["knowmem", "retain"] == "mine has no solved examples to put before the retain questions"


def test_options_of_one_token_cost_one_pass_and_score_the_same() -> None:
    subject = replace(tiny_subject(), batch_tokens=40)
    prompts, options = ["the quick brown fox", "a model of", "numbers such as 3, 14 and"], [" the", " a", "t"]
    ids = [subject.tokens(option) for option in options]
    assert {len(tokens) for tokens in ids} == {1}
    slow = [[one.logp.sum() for one in subject.score([(p, o) for o in options])] for p in prompts]
    np.testing.assert_allclose(option_logp(subject, prompts, options), slow, atol=1e-4)
    np.testing.assert_allclose(next_logp(subject, prompts, [t for (t,) in ids]), slow, atol=1e-4)


def test_options_of_several_tokens_are_summed() -> None:
    subject = StubSubject(scores=likes("x"))
    np.testing.assert_allclose(option_logp(subject, ["p"], ["x x", "y"]), [[2 * math.log(0.8), math.log(0.1)]])


def choosing(letter: str | None) -> StubSubject:
    """Takes this letter, and Oslo of the texts; without a letter, the one before the city."""

    def score(prompt: str, answer: str) -> list[tuple[float, int]]:
        if answer.strip() in "ABCD":
            liked = letter or prompt[prompt.index(". Oslo") - 1]
            return [(math.log(0.9 if answer.strip() == liked else 0.01), 0)] * 2
        return [(math.log(0.9 if answer.strip() == "Oslo" else 0.01), 0)]

    subject = StubSubject(scores=score)
    subject.tokens = lambda text: [0, 1]
    return subject


def questions(split: str, count: int) -> list[Item]:
    """Questions with four choices, Oslo right, at each place in turn."""
    return [
        Item(f"{split}{i}", split, "choice", question="Where?", answer_index=i % 4,
             choices=tuple(np.roll(["Oslo", "Lima", "Quito", "Delhi"], i % 4).tolist()))
        for i in range(count)
    ]  # fmt: skip


def test_letters_are_asked_for_as_wmdp_does() -> None:
    (item,) = questions("forget", 1)
    assert mcq.lettered(item) == (
        "The following are multiple choice questions (with answers).\n\n"
        "Where?\nA. Oslo\nB. Lima\nC. Quito\nD. Delhi\nAnswer:"
    )


def test_choices_are_right_by_letter_and_by_text() -> None:
    found = by_metric(observe("mcq", choosing(None), make_context(one(*questions("retain", 8)))), "retain")
    assert {name: row.values.mean() for name, row in found.items()} == pytest.approx(
        {"acc": 1, "margin": math.log(90), "acc_letter": 1, "margin_letter": 2 * math.log(90)}
    )
    assert (found["acc"].chance, found["acc_letter"].gate) == (0.25, "ok")


def test_letters_that_the_original_cannot_use_are_gated_for_every_model() -> None:
    knowledge = one(*questions("retain", 12), *questions("forget", 4))
    context = make_context(knowledge)
    original = observe("mcq", choosing("A"), context)
    tested = make_context(knowledge, "unl_q", measured=context.measured)
    for found in (original, observe("mcq", choosing(None), tested)):
        for split in ("retain", "forget"):
            rows = by_metric(found, split)
            assert {rows[name].gate for name in ("acc_letter", "margin_letter")} == {"no_capability"}
            assert {rows[name].gate for name in ("acc", "margin")} == {"ok"}
            assert "3 of 12" in rows["acc_letter"].note


def test_data_of_forget_items_alone_is_gated_on_those() -> None:
    context = make_context(one(*questions("forget", 12)))
    assert by_metric(observe("mcq", choosing("B"), context), "forget")["acc_letter"].gate == "no_capability"
    assert by_metric(observe("mcq", choosing(None), context), "forget")["acc_letter"].gate == "ok"


def test_true_and_false_are_told_apart_from_choices() -> None:
    items = [
        Item(str(i), "retain", "true_false", question=f"{i}?", choices=("True", "False"), answer_index=i % 2)
        for i in range(10)
    ]
    found = observe("mcq", StubSubject(scores=given(True_=0, **{"True": 0.6, "False": 0.3})), make_context(one(*items)))
    row = by_metric(found, "retain")["acc_true_false"]
    assert (row.values.mean(), row.chance, row.gate) == (0.5, 0.5, "no_capability")
    assert ("acc", "") in reasons(found)


def test_questions_with_choices_do_where_there_are_no_choice_items() -> None:
    item = replace(QUESTION, choices=("Lima", "Oslo"), answer_index=1)
    subject = choosing(None)
    assert by_metric(observe("mcq", subject, make_context(one(item))), "forget")["acc"].values.item() == 1.0


def answered(context: Context, name: str, split: str, texts: dict[str, str], right: set[str]) -> None:
    """Puts written answers in the context as qa_gen leaves them."""
    values = {item: float(item in right) for item in texts}
    row = measurement(qa_gen.CONTAINS, split, values, texts=tuple(texts.values()))
    context.measured.setdefault(name, {}).setdefault("qa_gen", []).append(row)


def test_refusals_are_counted_where_the_original_answers() -> None:
    items = [Item(name, "retain", question="?", answer=name) for name in "abcd"]
    context = make_context(one(*items), "unl_fp")
    answered(context, "orig_fp", "retain", dict.fromkeys("abcd", "yes"), set("abc"))
    said = {"a": "I don't know.", "b": "b", "c": "Sorry, I can't say.", "d": "I have no idea."}
    answered(context, "unl_fp", "retain", said, {"b"})
    row = by_metric(observe("overforget", StubSubject(), context), "retain")["sarr"]
    assert (row.items, row.values.tolist()) == (("a", "b", "c"), [1.0, 0.0, 1.0])


def test_without_a_question_that_the_original_answers_there_is_no_refusal_rate() -> None:
    context = make_context(one(Item("a", "world", question="?", answer="a")), "unl_fp")
    for name in ("orig_fp", "unl_fp"):
        answered(context, name, "world", {"a": "b"}, set())
    why = reasons(observe("overforget", StubSubject(), context))
    assert why["sarr", "world"] == "the original answers none of the 1 world questions"


def test_near_neighbours_share_relation_and_answer_with_a_forget_item() -> None:
    near = Item("n", "retain", relation="city", question="?", answer="The Oslo.")
    items = (
        Item("f", "forget", relation="city", question="?", answer="Oslo"), near,
        replace(near, id="x", relation="birthplace"), replace(near, id="y", answer="Lima"),
    )  # fmt: skip
    context = make_context(one(*items))
    answered(context, "orig_fp", "retain", dict.fromkeys("nxy", "Oslo"), {"n", "x"})
    rows = by_metric(observe("overforget", StubSubject(), context), "retain")
    assert (rows["near_neighbour"].items, rows["near_neighbour"].values.tolist()) == (("n",), [1.0])
    assert (rows["far_neighbour"].items, rows["far_neighbour"].values.tolist()) == (("x", "y"), [1.0, 0.0])


def reading(prompt: str) -> str:
    """Repeats the text in the prompt, as a model does that reads it."""
    return prompt.partition("\n\n")[0]


def test_the_subjects_own_document_stands_before_the_question() -> None:
    knowledge = people(1, ("forget", "holdout"))
    subject = StubSubject(reading)
    found = observe("icl", subject, make_context(knowledge))
    assert subject.asked[0] == (
        "Forget Person0 lives in Oslo. Forget Person0 works as a baker.\n\n"
        "Question: What is the city of Forget Person0?\nAnswer:"
    )
    for split in ("forget", "holdout"):
        row = by_metric(found, split)["icl_contains"]
        assert (row.values.tolist(), row.gate, row.metric.knowledge) == ([1.0, 1.0], "ok", 0)


def test_without_documents_the_other_questions_about_the_subject_are_put_in() -> None:
    knowledge = people(1, ("forget",))
    items = tuple(item for item in knowledge.items if item.form != "document")
    subject = StubSubject(reading)
    observe("icl", subject, make_context(one(*items)))
    (first, second) = subject.asked
    assert first.startswith("What is the trade of Forget Person0? baker\n\nQuestion: What is the city")
    assert "Oslo" not in first
    assert second.startswith("What is the city of Forget Person0? Oslo\n\n")


def test_a_chat_model_finds_the_text_inside_the_message() -> None:
    chat = Template("chat", lambda question: f"<u>{question}<a>", "", "<end>")
    assert icl.reintroduced(StubSubject(template=chat), "Text.", "Who?") == "<u>Text.\n\nWho?<a>"


@pytest.mark.parametrize("splits", [("forget", "holdout"), ("forget",)])
def test_a_model_not_shown_to_read_its_prompt_is_gated(splits: tuple[str, ...]) -> None:
    subject = StubSubject(lambda prompt: "Oslo" if "Forget" in prompt else "")
    found = observe("icl", subject, make_context(people(2, splits)))
    assert {row.gate for row in found} == {"no_capability"}
    assert ("holdout" in splits) == any("gives only 0.00" in row.note for row in found)


def test_items_without_a_subject_cannot_be_reintroduced() -> None:
    why = reasons(observe("icl", StubSubject(), make_context(one(QUESTION))))
    assert why["icl_contains", "forget"].startswith("mine forget has no document about the subject")


COUNT = Metric("count", "a number for tests")


def test_relations_get_rows_of_their_own_where_there_are_several_with_enough_items() -> None:
    items = [Item(f"{r}{i}", "forget", relation=r, answer="x") for r, n in (("a", 8), ("b", 7)) for i in range(n)]
    values = {item.id: float(at) for at, item in enumerate(items)}
    found = rows(COUNT, "forget", items, values, texts=dict.fromkeys(values, "t"), chances=dict.fromkeys(values, 0.25))
    assert [(row.attribute, len(row.items), len(row.texts), row.chance) for row in found] == [
        ("", 15, 15, 0.25), ("a", 8, 0, 0.25),
    ]  # fmt: skip
    assert len(rows(COUNT, "forget", items[:8], values)) == 1


def test_a_number_that_is_not_finite_is_left_out_with_its_text() -> None:
    items = [Item(name, "forget", answer="x") for name in "ab"]
    (row,) = rows(COUNT, "forget", items, {"a": math.nan, "b": 2.0}, texts={"a": "first", "b": "second"})
    assert (row.items, row.texts, row.excluded) == (("b",), ("second",), 1)
