"""Everything that is asked about one person, as items."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from omniq.knowledge.biographies.attributes import ATTRIBUTES, Attribute
from omniq.knowledge.biographies.people import Person, Pools
from omniq.knowledge.biographies.settings import WRONG_ANSWERS
from omniq.knowledge.forms import Wording, fact_items, stated
from omniq.knowledge.items import Item

TRUE_FALSE = ("true", "false")
LINKS = (", ", " and ")


def wording(attribute: Attribute, name: str) -> Wording:
    """The attribute's questions and statements about a person of that name."""

    def about(text: str) -> str:
        return text.replace("{name}", name)

    return Wording(
        about(attribute.question),
        tuple(map(about, attribute.paraphrases)),
        tuple(map(about, attribute.statements)),
        about(attribute.prefix),
    )


def others(pool: Sequence[str], right: str, key: str) -> tuple[str, ...]:
    """Five values of the pool that are not the right one, the same for the same key."""
    return tuple(random.Random(key).sample([value for value in pool if value != right], WRONG_ANSWERS))


def person_items(person: Person, pool: Pools, truths: Mapping[tuple[str, str], bool], seed: int) -> Iterator[Item]:
    """The qa, cloze, choice and true_false items; truths[person id, attribute] says which statements are true."""
    for attribute in ATTRIBUTES:
        if attribute.name not in person.values:
            continue
        key, value = f"{person.id}/{attribute.name}", person.values[attribute.name]
        wrong = others(pool.values[attribute.name], value, f"{seed}/{key}")
        words = wording(attribute, person.name)
        yield from fact_items(key, person.split, person.name, attribute.name, words, value, wrong)
        is_true = truths[person.id, attribute.name]
        said = stated(words.statements[0], value if is_true else wrong[0])
        yield Item(
            id=f"{key}/true_false", split=person.split, form="true_false", subject=person.name,
            relation=attribute.name, question=f"True or false: {said}", answer=TRUE_FALSE[not is_true],
            wrong_answers=(TRUE_FALSE[is_true],), choices=TRUE_FALSE, answer_index=int(not is_true),
        )  # fmt: skip


def true_statements(everyone: Sequence[Person], seed: int) -> dict[tuple[str, str], bool]:
    """(person id, attribute) -> whether its statement is true: half of every split and attribute, up to one."""
    found: dict[tuple[str, str], bool] = {}
    for split in dict.fromkeys(person.split for person in everyone):
        group = [person for person in everyone if person.split == split]
        for attribute in group[0].values:
            order = random.Random(f"{seed}/{split}/{attribute}/true_false").sample(group, len(group))
            found |= {(person.id, attribute): place % 2 == 0 for place, person in enumerate(order)}
    return found


def reverse_item(person: Person, everyone: Sequence[Person], seed: int) -> Item | None:
    """Who has these attributes? With the first so many that only one person has them; None where none are enough.

    The wrong names are of the person's own split, so that no name comes up beside people of another.
    """
    rivals, used = [other for other in everyone if other.id != person.id], []
    for attribute in (a for a in ATTRIBUTES if a.name in person.values):
        used.append(attribute)
        rivals = [r for r in rivals if r.values[attribute.name] == person.values[attribute.name]]
        if not rivals:
            break
    if rivals:
        return None
    clauses = [stated(attribute.clause, person.values[attribute.name]) for attribute in used]
    told = clauses[0] if len(clauses) == 1 else LINKS[1].join((LINKS[0].join(clauses[:-1]), clauses[-1]))
    names = [other.name for other in everyone if other.split == person.split]
    wrong = others(names, person.name, f"{seed}/{person.id}/reverse")
    said = f"The person who {told} is {{value}}."
    return Item(
        id=f"{person.id}/reverse", split=person.split, form="reverse", subject=person.name, relation="name",
        question=f"Who {told}?", answer=person.name,
        question_paraphrases=(f"Which person {told}?", f"What is the name of the person who {told}?"),
        answer_paraphrases=(stated(said, person.name),), wrong_answers=tuple(stated(said, name) for name in wrong),
    )  # fmt: skip
