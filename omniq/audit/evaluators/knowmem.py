"""knowmem: questions asked after solved examples, as MUSE asks them."""

from __future__ import annotations

from collections.abc import Sequence

from omniq.audit.asking import QUESTION_STOPS
from omniq.audit.base import EVALUATORS, Context, Evaluator, Found, Metric, Missing
from omniq.audit.metrics.rouge import rouge_l
from omniq.audit.rows import by_split, rows
from omniq.knowledge.items import Item
from omniq.subject.model import Subject

TOKENS = 32

KNOWMEM = Metric("knowmem", f"ROUGE-L F1 of {TOKENS} greedy tokens after solved examples, without stemming")


def observe(subject: Subject, context: Context) -> Found:
    """Every question of a split that has solved examples, put without the model's own template."""
    examples = context.knowledge.examples

    def of_questions(split: str, items: Sequence[Item]) -> Found:
        if not examples.get(split):
            reason = f"{context.knowledge.name} has no solved examples to put before the {split} questions"
            return [Missing(KNOWMEM.name, split, reason)]
        prompts = [prompt(examples[split], item.question) for item in items]
        said = subject.generate(prompts, TOKENS, QUESTION_STOPS)
        texts = {item.id: text for item, text in zip(items, said, strict=True)}
        overlap = {item.id: rouge_l(texts[item.id], item.answer)[1] for item in items}
        return rows(KNOWMEM, split, items, overlap, texts=texts)

    return by_split(context, (KNOWMEM,), "qa", ("question", "answer"), of_questions)


def prompt(examples: Sequence[tuple[str, str]], question: str) -> str:
    """MUSE's prompt without the space that ends it: the space belongs to the answer, as in the examples.

    Byte-level tokenizers make a last space a token that never stands before a word: SmolLM2-135M named 7 of 30 capitals
    with it and 22 without.
    """
    solved = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in examples)
    return f"{solved}Question: {question}\nAnswer:"


EVALUATORS.add("knowmem")(Evaluator(observe, "questions after solved examples (MUSE)", (KNOWMEM,), cost="medium"))
