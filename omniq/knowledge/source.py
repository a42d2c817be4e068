"""Source: where knowledge comes from, by name; 'tofu:DIR' asks the source tofu for DIR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omniq.errors import DataError, UsageError
from omniq.knowledge.items import Knowledge
from omniq.registry import Registry


@dataclass(frozen=True)
class Source:
    """read: what stands after the colon -> Knowledge. summary: one line for `omniq list sources`.

    argument: what stands after the colon, in words, or '' when nothing may; needed: whether it must be given.
    """

    read: Callable[[str], Knowledge]
    summary: str
    argument: str = ""
    needed: bool = False


SOURCES: Registry[Source] = Registry("knowledge source", "omniq.knowledge.sources")


def read(name: str) -> Knowledge:
    """'synthetic:seed=0', 'tofu:DIR', 'facts' ... -> Knowledge; anything wrong with it is a UsageError or DataError."""
    kind, colon, argument = name.partition(":")
    source = SOURCES[kind]
    if source.needed and not argument:
        raise UsageError(f"--data {name}: write {kind}:{source.argument}")
    if colon and not source.argument:
        raise UsageError(f"--data {name}: {kind} takes nothing after it; write --data {kind}")
    knowledge = source.read(argument)
    if not knowledge.items:
        raise DataError(f"--data {name} holds no item; check the folder or the file")
    return knowledge
