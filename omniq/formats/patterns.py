"""Regular expressions that a checkpoint's config brings along: whoever wrote them, a match takes a moment at most."""

from __future__ import annotations

import regex

from omniq.errors import ModelError

SECONDS = 0.02
"""Of the processor's time, for a match that otherwise takes microseconds. An expression such as (x+x+)+y can take
years over one name."""


def matches(pattern: str, name: str) -> bool:
    """Whether the expression matches the beginning of a module's name; ModelError when it is not valid or not quick."""
    try:
        return regex.match(pattern, name, timeout=SECONDS) is not None
    except TimeoutError:
        raise ModelError(
            f"quantization_config has the regular expression {pattern!r}, which takes too long to match with {name!r}; "
            "name the modules in full instead"
        ) from None
    except (regex.error, RecursionError, OverflowError) as error:
        raise ModelError(
            f"quantization_config has the regular expression {pattern!r}, which is not valid: {error}"
        ) from None
