"""What lm-evaluation-harness is asked about knowledge: the forms of asking, and the rows of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from omniq.audit.asking import QUESTION_STOPS, completed, true_side
from omniq.audit.evaluators.mcq import lettered
from omniq.knowledge.forms import shuffled
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.template import plain_prompt

VERBATIM_TOKENS = 128
"""Written in continuation of a text, as in MUSE."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A form of asking. items: those of a split that can be asked so. row: an item -> what a line of the file holds.

    settings: of the task's yaml, by key; values that begin with '!function' are references. metrics: their names.
    """

    items: Callable[[Knowledge, str], Iterable[Item]]
    row: Callable[[Item], Row]
    settings: Mapping[str, Any]
    metrics: tuple[str, ...]


def prompt(item: Item) -> str:
    """What stands before the answer: the question in the plain template, or the beginning of the sentence or text."""
    if item.question:
        return plain_prompt(item.question)
    return item.prefix if item.form == "completion" else completed(item, item.answer)[0]


def target(item: Item) -> str:
    """The answer with the space that parts it from the prompt: for likelihoods lm-eval joins the two as they are."""
    parted = prompt(item)[-1:].isspace() or item.answer[:1].isspace()
    return item.answer if parted else f" {item.answer}"


def answered(knowledge: Knowledge, split: str) -> list[Item]:
    """The items that are a question or the beginning of a sentence, with an answer."""
    items = [item for form in ("qa", "cloze", "reverse") for item in knowledge.of(split, form, having=("answer",))]
    return [item for item in items if prompt(item)]


def continued(knowledge: Knowledge, split: str) -> tuple[Item, ...]:
    """The items that are the beginning of a text and what follows it."""
    return knowledge.of(split, "completion", having=("prefix", "answer"))


def scored(knowledge: Knowledge, split: str) -> list[Item]:
    """Every item with one right answer after a prompt."""
    return [*answered(knowledge, split), *continued(knowledge, split)]


def chosen(knowledge: Knowledge, split: str) -> list[Item]:
    """The multiple choice questions; where a split has none, its questions with choices or wrong answers."""
    asked = knowledge.of(split, "choice", having=("question",)) or knowledge.of(split, "qa", having=("question",))
    return [item for item in asked if len(options(item)[0]) > 1]


def listed(knowledge: Knowledge, split: str) -> list[Item]:
    """The multiple choice questions whose choices can be listed with a letter each."""
    return [item for item in chosen(knowledge, split) if len(item.choices) in range(2, len(ascii_uppercase) + 1)]


def judged(knowledge: Knowledge, split: str) -> list[Item]:
    """The statements to call true or false."""
    return [item for item in knowledge.of(split, "true_false", having=("question",)) if len(options(item)[0]) > 1]


def documents(knowledge: Knowledge, split: str) -> tuple[Item, ...]:
    """The texts."""
    return knowledge.of(split, "document", having=("text",))


def options(item: Item) -> tuple[tuple[str, ...], int]:
    """(choices, index of the right one); without choices: the right answer among the wrong, worded alike."""
    if item.choices and item.answer_index is not None:
        return item.choices, item.answer_index
    # In any fixed order the right one would win or lose every tie.
    return shuffled(true_side(item), item.wrong_answers, item.id)


def about(item: Item) -> Row:
    """What lets a row of lm-eval's log be found again in an audit."""
    return {"id": item.id, "subject": item.subject, "relation": item.relation}


def answer_row(item: Item) -> Row:
    """A prompt with its answer, bare and as what follows the prompt."""
    return {**about(item), "prompt": prompt(item), "answer": item.answer, "target": target(item)}


def choice_row(item: Item) -> Row:
    """A prompt with its choices."""
    choices, index = options(item)
    return {**about(item), "prompt": plain_prompt(item.question), "choices": list(choices), "answer_index": index}


def letter_row(item: Item) -> Row:
    """A prompt that lists the choices, as in WMDP and MMLU, with their letters to choose from."""
    letters = list(ascii_uppercase[: len(item.choices)])
    return {**about(item), "prompt": lettered(item), "choices": letters, "answer_index": item.answer_index}


def text_row(item: Item) -> Row:
    """A text."""
    return {**about(item), "text": item.text}


def written(tokens: int, until: Sequence[str]) -> dict[str, Any]:
    """The settings of a task in which the model writes, greedily."""
    return {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "process_results": "!function utils.generation",
        "generation_kwargs": {"until": list(until), "do_sample": False, "max_gen_toks": tokens},
    }


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer_index",
}
LIKELIHOOD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{target}}",
    "process_results": "!function utils.likelihood",
}
ROLLING = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
WRITTEN_METRICS = ("em", "contains", "rougeL_recall", "rougeL_f1")
OWN = {*WRITTEN_METRICS, "logprob", "greedy"}


def kinds(answer_tokens: int) -> dict[str, Kind]:
    """Every form of asking, by the last part of its tasks' names.

    verbatim compares with the whole text that follows, where the audit's verbmem takes as many tokens as were written.
    """
    return {
        "gen": Kind(answered, answer_row, written(answer_tokens, QUESTION_STOPS), WRITTEN_METRICS),
        "verbatim": Kind(continued, answer_row, written(VERBATIM_TOKENS, ()), WRITTEN_METRICS),
        "mcq": Kind(chosen, choice_row, CHOICE, ("acc", "acc_norm")),
        "letters": Kind(listed, letter_row, CHOICE, ("acc",)),
        "truefalse": Kind(judged, choice_row, CHOICE, ("acc",)),
        "ll": Kind(scored, answer_row, LIKELIHOOD, ("logprob", "greedy")),
        "ppl": Kind(documents, text_row, ROLLING, ("word_perplexity", "byte_perplexity", "bits_per_byte")),
    }
