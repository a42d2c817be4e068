"""Material: what a method learns from, step by step: forget items, what stands against them, and retain items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omniq.errors import DataError
from omniq.knowledge.items import Item, Knowledge
from omniq.subject.model import Subject
from omniq.subject.scoring import Encoded
from omniq.unlearn.batch import Batch, learnt, passes
from omniq.unlearn.examples import answered, check_asked, example, refusal, required, wrong_answers
from omniq.unlearn.method import ANSWER, REFUSAL, WRONG, Part, Reference, Unlearner, View
from omniq.unlearn.training import Training, orders


@dataclass(frozen=True)
class Row:
    """One forget item of a step, as sequences: its target, a refusal, and the retain item drawn beside it."""

    forget: Encoded
    refusal: Encoded | None
    retain: Encoded | None

    @property
    def size(self) -> int:
        """Tokens of all three."""
        return sum(len(sequence.ids) for sequence in (self.forget, self.refusal, self.retain) if sequence is not None)


class Material:
    """The items of the forget and retain splits that a method uses, and the rows of every step, drawn by the seed."""

    def __init__(
        self,
        subject: Subject,
        knowledge: Knowledge,
        method: Unlearner,
        name: str,
        training: Training,
        forms: Sequence[str] = (),
    ) -> None:
        self.subject, self.method, self.training = subject, method, training
        self.forget = required(knowledge, "forget", forms, "give data with something to forget")
        fix = "give data with a retain split, or use --method ga, which retains nothing"
        self.retain = required(knowledge, "retain", forms, fix) if method.retains else ()
        if method.target != ANSWER or method.contrast:
            check_asked(self.forget, name)
        self.wrong = [self._wrong(item, knowledge) for item in self.forget] if method.target == WRONG else []
        self.refusals = [self._refusal(item, "fixed") for item in self.forget] if method.contrast else []
        self.answers = [self._cut(example(subject, item)) for item in self.forget]
        self.kept = [self._cut(example(subject, item)) for item in self.retain]

    @staticmethod
    def _wrong(item: Item, knowledge: Knowledge) -> tuple[str, ...]:
        found = wrong_answers(item, knowledge.of(form=item.form))
        if not found:
            raise DataError(
                f"{knowledge.name}: {item.id!r} has no wrong answer, and no other item has its relation "
                f"{item.relation!r}; random_label needs one"
            )
        return found

    def _cut(self, row: Encoded) -> Encoded:
        return row.cut(self.training.max_tokens)

    def _refusal(self, item: Item, when: object) -> Encoded:
        """A refusal to the item's question, drawn for this item at this time."""
        rng = self.training.rng("refusal", item.id, when)
        return self._cut(answered(self.subject, item, refusal(rng)))

    def _target(self, index: int, epoch: int) -> Encoded:
        """What forget item `index` is followed by in an epoch; wrong answers and refusals are drawn anew in each."""
        item = self.forget[index]
        if self.method.target == REFUSAL:
            return self._refusal(item, epoch)
        if self.method.target == WRONG:
            wrong = self.training.rng("wrong", item.id, epoch).choice(self.wrong[index])
            return self._cut(answered(self.subject, item, wrong))
        return self.answers[index]

    def rows(self) -> Iterator[list[Row]]:
        """The rows of each step. Retain items are drawn in turn from all of them in a random order."""
        per_epoch = -(-len(self.forget) // self.training.batch_size)
        beside = self._beside()
        for step, chosen in enumerate(orders(len(self.forget), self.training)):
            epoch = step // per_epoch
            yield [
                Row(self._target(i, epoch), self.refusals[i] if self.refusals else None, next(beside)) for i in chosen
            ]

    def _beside(self) -> Iterator[Encoded | None]:
        """Retain sequences without end, each once before any comes again; None for a method that retains nothing."""
        around = 0
        while True:
            order = self.training.rng("retain", around).sample(range(len(self.kept)), len(self.kept))
            yield from (self.kept[i] for i in order) if order else (None,)
            around += 1

    def parts(self, rows: Sequence[Row], reference: Reference) -> list[Part]:
        """A step's rows in passes that fit the memory, each as the model and theta0 see it."""
        groups = passes([row.size for row in rows], self.training.pass_tokens)
        forget = self._counts([row.forget for row in rows])
        retain = self._counts([row.retain for row in rows if row.retain is not None])

        def view(sequences: list[Encoded | None], counts: tuple[int, int]) -> View | None:
            if sequences[0] is None:
                return None
            return View(self.subject, reference, Batch.of(sequences, self.subject.device), *counts)

        return [
            Part(
                view([rows[i].forget for i in group], forget),
                view([rows[i].refusal for i in group], forget),
                view([rows[i].retain for i in group], retain),
            )
            for group in groups
        ]

    @staticmethod
    def _counts(sequences: Sequence[Encoded]) -> tuple[int, int]:
        """How many sequences, and how many tokens of them are to be predicted."""
        return len(sequences), sum(map(learnt, sequences))
