"""Options written after the name of a source: 'seed=0,people=200'."""

from __future__ import annotations

from omniq.errors import UsageError


def key_values(text: str, owner: str) -> dict[str, str]:
    """'a=1,b=2' -> {'a': '1', 'b': '2'}; `owner` is who is named in an error."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise UsageError(f"{owner}: cannot read {part!r}; options are written name=value and separated by commas")
        if name in found:
            raise UsageError(f"{owner}: {name} is given twice; keep one")
        found[name] = value
    return found
