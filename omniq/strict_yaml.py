"""YAML as a person writes it: plain values, no anchors, no key twice, within bounds of size and depth."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.events import AliasEvent

from omniq.errors import UsageError

LARGEST = 1 << 16
"""Characters; a recipe has some hundred."""


class _Loader(yaml.SafeLoader):
    """Safe values only, and none that stands for another: repeated anchors can make a few lines larger than memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"line {event.start_mark.line + 1} repeats *{event.anchor}; write the value again")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1} gives {key.value!r} a second time; keep one")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parsed(text: str, place: str) -> Any:
    """The value of a YAML text; UsageError, which begins with `place`, when it is not valid or asks for too much."""
    if len(text) > LARGEST:
        raise UsageError(f"{place} is not valid YAML: it has {len(text)} characters, more than {LARGEST}")
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        reason = "it is nested too deeply"
    # A date that is none and a number of thousands of digits are plain ValueErrors.
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
    raise UsageError(f"{place} is not valid YAML: {reason}")
