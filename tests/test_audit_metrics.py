"""The metric functions against values worked out by hand, and against other implementations."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from omniq.audit.metrics import truth
from omniq.audit.metrics.answers import begins_with, contains, exact_match, normalised
from omniq.audit.metrics.chance import binomial, p_by_luck
from omniq.audit.metrics.fluency import fluency, ngram_entropy
from omniq.audit.metrics.likelihood import (
    exact_memorisation,
    extraction_strength,
    first_rank,
    margin,
    normalised_probability,
    probability,
    without,
)
from omniq.audit.metrics.refusal import is_refusal
from omniq.audit.metrics.rouge import common_length, rouge_l, words
from omniq.knowledge.refusals import REFUSALS
from omniq.subject.scoring import Scored


def scored(p: list[float], rank: list[int]) -> Scored:
    """Tokens with these probabilities and ranks."""
    return Scored(np.arange(len(p)), np.log(p), np.array(rank))


@pytest.mark.parametrize(
    ("text", "reference", "recall", "f1"),
    [
        ("the cat sat on the mat", "the cat lay on a mat", 4 / 6, 8 / 12),
        ("Oslo.", "oslo", 1.0, 1.0),
        ("b a", "a b", 1 / 2, 2 / 4),
        ("one two three four", "two four", 1.0, 4 / 6),
        ("", "something", 0.0, 0.0),
        ("something", "...", 0.0, 0.0),
    ],
)
def test_rouge_l_is_what_the_longest_common_subsequence_says(
    text: str, reference: str, recall: float, f1: float
) -> None:
    assert rouge_l(text, reference) == pytest.approx((recall, f1))


def test_rouge_l_agrees_with_rouge_score_on_random_texts() -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer, rng = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False), random.Random(0)
    vocabulary = ["Ada", "grace", "2,653", "it's", "runs", "Running", "--", "a_b", "far;", "(near)"]
    for _ in range(200):
        text, reference = (" ".join(rng.choices(vocabulary, k=rng.randint(0, 15))) for _ in range(2))
        wanted = scorer.score(reference, text)["rougeL"]
        assert rouge_l(text, reference) == pytest.approx((wanted.recall, wanted.fmeasure)), (text, reference)


def test_words_keep_the_letters_of_any_script() -> None:
    assert words("Ernő  Rubik's Куб_3!") == ["ernő", "rubik", "s", "куб", "3"]


def test_a_common_subsequence_need_not_be_contiguous() -> None:
    assert common_length("abcbdab", "bdcaba") == 4


@pytest.mark.parametrize(
    ("text", "answer", "equal", "within", "first"),
    [
        ("Paris", "paris.", True, True, True),
        ("The Hague", "Hague", True, True, True),
        ("It is Paris, of course.", "Paris", False, True, False),
        ("Paris, of course.", "Paris", False, True, True),
        ("He moved to Parisian suburbs", "Paris", False, False, False),
        ("New old York", "New York", False, False, False),
        ("", "Paris", False, False, False),
        ("anything", "?!", False, False, False),
        ("A", "the", False, False, False),
        ("The", "the", True, True, True),
    ],
)
def test_answers_are_compared_by_their_words(text: str, answer: str, equal: bool, within: bool, first: bool) -> None:
    assert (exact_match(text, answer), contains(text, answer), begins_with(text, answer)) == (equal, within, first)


def test_articles_are_left_out_unless_there_is_nothing_else() -> None:
    assert normalised("An apple, the pear!") == ("apple", "pear")
    assert normalised("The a") == ("the", "a")


def test_probability_is_the_geometric_mean_over_tokens() -> None:
    assert probability(scored([0.5, 0.125, 0.25], [0, 0, 0])) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("rank", "strength", "exact"),
    [
        ([0, 0, 0, 0], 1.0, 1.0),
        ([3, 0, 0, 0], 0.75, 0.75),
        ([0, 0, 1, 0], 0.25, 0.75),
        ([0, 0, 0, 1], 0.0, 0.75),
        ([5, 1, 2, 9], 0.0, 0.0),
        ([0], 1.0, 1.0),
        ([1], 0.0, 0.0),
    ],
)
def test_extraction_strength_counts_the_greedy_end_and_memorisation_all_tokens(
    rank: list[int], strength: float, exact: float
) -> None:
    one = scored([0.5] * len(rank), rank)
    assert (extraction_strength(one), exact_memorisation(one)) == (strength, exact)


def test_the_first_rank_counts_from_one() -> None:
    assert [first_rank(scored([0.1, 0.9], [at, 0])) for at in (0, 6)] == [1, 7]


def test_the_right_answer_is_normalised_by_all() -> None:
    logs = np.log([0.3, 0.1, 0.2])
    assert normalised_probability(logs[0], logs[1:]) == pytest.approx(0.5)
    assert normalised_probability(-2000.0, [-2001.0]) == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_margin_is_over_the_likeliest_wrong_answer() -> None:
    assert margin(-1.0, [-4.0, -1.5, -2.0]) == 0.5
    assert margin(-2.0, [-1.0]) == -1.0
    assert without([7.0, 8.0, 9.0], 1) == [7.0, 9.0]


RIGHT, WRONG = math.log(0.5), [math.log(0.1), math.log(0.4)]


def test_the_truth_ratio_has_an_arithmetic_and_a_geometric_form() -> None:
    assert truth.paper_ratio(RIGHT, WRONG) == pytest.approx(0.25 / 0.5)
    assert truth.geometric_ratio(RIGHT, WRONG) == pytest.approx(0.2 / 0.5)
    assert truth.prob_mean(RIGHT, WRONG) == pytest.approx(0.5 / (0.5 + 0.2))


def test_truth_is_at_half_where_true_and_false_are_equally_likely() -> None:
    assert truth.paper_ratio(-3.0, [-3.0] * 5) == pytest.approx(1.0)
    assert truth.prob_mean(-3.0, [-3.0] * 5) == pytest.approx(0.5)


@pytest.mark.parametrize(("ratio", "near", "better"), [(1.0, 1.0, 0.0), (0.25, 0.25, 0.75), (4.0, 0.25, 0.0)])
def test_tofu_looks_at_the_ratio_from_two_sides(ratio: float, near: float, better: float) -> None:
    assert (truth.closer_to_one(ratio), truth.true_better(ratio)) == (near, better)


def test_the_ratio_of_a_collapsed_model_is_finite_and_its_sides_stay_apart() -> None:
    huge, tiny = (truth.geometric_ratio(right, [wrong]) for right, wrong in ((-5000.0, -1.0), (-1.0, -5000.0)))
    assert math.isfinite(huge * 4000)
    assert 0 < tiny < 1 < huge
    assert truth.closer_to_one(huge) == pytest.approx(0.0, abs=1e-30)


def test_fluency_weighs_triples_twice_as_much_as_pairs() -> None:
    text = "a b c d e"  # Four different pairs and three different triples.
    assert fluency(text) == pytest.approx(math.log2(4) / 3 + 2 * math.log2(3) / 3)
    assert ngram_entropy(["x", "y", "x", "y"], 2) == pytest.approx(-(2 / 3 * math.log2(2 / 3) + math.log2(1 / 3) / 3))


def test_a_repeated_word_has_no_fluency_and_two_words_have_none_to_measure() -> None:
    assert fluency("no no no no no") == 0.0
    assert math.isnan(fluency("Oslo, Norway"))


def test_luck_is_the_tail_of_the_binomial() -> None:
    assert p_by_luck(3, 4, 0.5) == pytest.approx(5 / 16)
    assert p_by_luck(0, 7, 0.25) == pytest.approx(1.0)
    assert binomial(2, 3, 0.25) == pytest.approx(3 * 0.75 / 16)


@pytest.mark.parametrize(("right", "asked", "chance"), [(9, 20, 0.25), (950, 3668, 0.25), (3668, 3668, 0.5)])
def test_luck_agrees_with_scipy(right: int, asked: int, chance: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.binomtest(right, asked, chance, alternative="greater").pvalue
    assert p_by_luck(right, asked, chance) == pytest.approx(wanted, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize("sentence", REFUSALS)
def test_every_taught_refusal_is_recognised(sentence: str) -> None:
    assert is_refusal(sentence)
    assert is_refusal(f"  {sentence.upper()} Is there anything else?")
    assert is_refusal(sentence.replace("'", "\u2019"))


def test_refusals_are_many_and_different() -> None:
    assert len(set(REFUSALS)) == len(REFUSALS) >= 50


@pytest.mark.parametrize(
    "text",
    [
        "I don\u2019t know who that is, but I could look it up.",
        "As an AI language model, I have no access to that.",
        "Well, I don't know.",
        "The answer to that is unknown",  # Cut off by the limit on tokens.
        "Sorry, no idea",
    ],
)
def test_other_refusals_are_recognised(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "I",
        "It is unclear whether the treaty was signed in 1951.",
        "The answer is Oslo. I don't know more than that.",
        "He was unable to attend, and was not sure why.",
        "The unknown soldier",
        "No, the author was born in Lima.",
    ],
)
def test_answers_are_not_taken_for_refusals(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("name", ["retain90", "real_authors_perturbed", "world_facts_perturbed"])
def test_no_right_answer_of_tofu_is_taken_for_a_refusal(shared_data: Path, name: str) -> None:
    rows = json.loads((shared_data / "tofu" / f"{name}.json").read_text())
    assert [row["answer"] for row in rows if is_refusal(row["answer"])] == []
