"""BiographySettings: everything that decides which biographies are written, read from 'seed=0,people=200,...'."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields

from omniq.errors import UsageError
from omniq.knowledge.options import key_values

WRONG_ANSWERS = 5
FEWEST, MOST_VALUES, MOST_PEOPLE, MOST_VERSIONS = WRONG_ANSWERS + 1, 60, 20_000, 64
BOUNDS = {
    "people": (2 * FEWEST, MOST_PEOPLE),
    "attributes": (1, 6),
    "values": (FEWEST, MOST_VALUES),
    "multi": (1, MOST_VERSIONS),
}


@dataclass(frozen=True)
class BiographySettings:
    """people: in all. forget, holdout: the shares of them that are to be forgotten and that are never taught.

    attributes: the first so many of birth date, birth city, university, major, employer, employer's city. values: how
    many different ones of each (employers share cities, so there are fewer cities). multi: biographies of a person,
    each with sentences drawn anew; permute: in any order; couple: shuffled in pairs that stay together (birth date and
    city, university and major, employer and city); fullname: the name in every sentence instead of a pronoun.
    """

    seed: int = 0
    people: int = 200
    forget: float = 0.2
    holdout: float = 0.2
    attributes: int = 6
    values: int = 10
    multi: int = 3
    permute: bool = True
    fullname: bool = False
    couple: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"synthetic: {name} is {getattr(self, name)}; it must be from {low} to {high}")
        for name in ("forget", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"synthetic: {name} is {getattr(self, name)}; it is a share, from 0 to below 1")
        if self.forget + self.holdout >= 1:
            raise UsageError(
                f"synthetic: forget={self.forget:g} and holdout={self.holdout:g} leave nobody to retain; "
                "as shares of all people they must be less than 1 together"
            )
        for split, count in self.sizes().items():
            if count < FEWEST and (count or split == "retain"):
                raise UsageError(
                    f"synthetic: forget={self.forget:g} and holdout={self.holdout:g} of {self.people} people leave "
                    f"{count} in {split}, but a question about them has {WRONG_ANSWERS} wrong names to choose from; "
                    "change people, forget or holdout"
                )
        if self.couple and not self.permute:
            raise UsageError("synthetic: couple=true keeps pairs together in shuffled sentences; add permute=true")

    def sizes(self) -> dict[str, int]:
        """People in each split."""
        forget, holdout = round(self.people * self.forget), round(self.people * self.holdout)
        return {"forget": forget, "retain": self.people - forget - holdout, "holdout": holdout}


def truth(text: str) -> bool:
    """'true' or 'false' -> bool; anything else is a ValueError."""
    return ["false", "true"].index(text.lower()) == 1  # index refuses what is neither


READ: dict[str, tuple[Callable[[str], int | float | bool], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number such as 0.2"),
    "bool": (truth, "true or false"),
}


def biography_settings(text: str) -> BiographySettings:
    """'seed=0,people=200' -> settings; what is not named keeps its default."""
    kinds = {f.name: str(f.type) for f in fields(BiographySettings)}
    return BiographySettings(
        **{name: _value(name, given, kinds) for name, given in key_values(text, "synthetic").items()}
    )


def _value(name: str, text: str, kinds: dict[str, str]) -> int | float | bool:
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"synthetic has no option {name!r}{hint} It has {', '.join(kinds)}.")
    read, words = READ[kinds[name]]
    try:
        return read(text)
    except ValueError:
        raise UsageError(f"synthetic: {name}={text} is not {words}; the default is {defaults()[name]}") from None


def defaults() -> dict[str, str]:
    """Every option with its default, as it is written."""
    return {f.name: str(f.default).lower() for f in fields(BiographySettings)}
