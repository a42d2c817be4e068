"""Cells of tables: values with their intervals, changes, shares, and what stands where there is no value."""

from __future__ import annotations

from collections.abc import Mapping

from omniq.audit.result import Row
from omniq.audit.wording import GATE_WORDS, interval, number, share, signed
from omniq.page.markup import Markup, tag


class Reasons:
    """Numbers the reasons for missing values in the order in which they come up, each once."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def mark(self, reason: str) -> Markup:
        """'N/A' with the number of its reason."""
        index = self.found.setdefault(reason, len(self.found) + 1)
        return tag("td", ["N/A", tag("sup", str(index))], class_="na", title=reason)

    def notes(self) -> Markup:
        """The reasons under their numbers; nothing where there are none."""
        lines = [tag("li", reason) for reason in self.found]
        return tag("ol", lines, class_="reasons") if lines else Markup("")


def counts(rows: Mapping[str, Row]) -> str:
    """Over how many items the rows of all models are: '40', or '38 to 40'."""
    found = sorted({row.n for row in rows.values()})
    return "" if not found else str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def value_cell(row: Row, chance: bool = False) -> Markup:
    """A value, its interval below it, and its gate where it is not ok. chance: with the chance of this very row."""
    parts: list[str] = [number(row.value)]
    said = interval(row.ci_lo, row.ci_hi)
    if said:
        parts.append(tag("small", said))
    if chance and row.chance is not None:
        parts.append(tag("small", f"chance {number(row.chance)}"))
    if row.gate != "ok":
        parts.append(tag("small", row.gate.replace("_", " "), class_="gate", title=GATE_WORDS.get(row.gate, row.gate)))
    kind = "num" if row.gate == "ok" else "num muted"
    return tag("td", parts, class_=kind, title=f"n = {row.n}" + (f", {row.note}" if row.note else ""))


def change_cell(value: float | None, low: float | None, high: float | None) -> Markup:
    """A difference with its interval; bold where the interval does not hold 0."""
    if value is None:
        return tag("td", "", class_="num")
    said = "" if low is None or high is None else tag("small", f"[{signed(low)}, {signed(high)}]")
    clear = low is not None and high is not None and (low > 0 or high < 0) and signed(value) != number(0.0)
    return tag("td", [tag("b", signed(value)) if clear else signed(value), said], class_="num")


def share_cell(value: float | None, low: float | None, high: float | None) -> Markup:
    """A share in per cent with its interval."""
    if value is None:
        return tag("td", "", class_="num")
    said = "" if low is None or high is None else tag("small", f"[{share(low)}, {share(high)}]")
    return tag("td", [share(value), said], class_="num")


def plain_cell(text: str) -> Markup:
    """A cell of figures that are text already."""
    return tag("td", text, class_="num")
