"""Registry: name -> object, filled on first use by importing every module of one package."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from omniq.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by name. Adding one is adding a file to `package`.

    A module whose import fails for lack of one of `optional` (such as triton) is recorded in `absent`
    with the reason; any other import error propagates.
    """

    def __init__(self, kind: str, package: str, optional: tuple[str, ...] = ()) -> None:
        self.kind, self.package, self.optional = kind, package, optional
        self.absent: dict[str, str] = {}
        self._entries: dict[str, T] = {}
        self._filled = False

    def add(self, name: str) -> Callable[[T], T]:
        """Registers an object under `name`; a second object of the same name is a programming error."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return register

    def _fill(self) -> None:
        if self._filled:
            return
        self._filled = True
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            if module.name.startswith("_"):
                continue
            try:
                importlib.import_module(f"{self.package}.{module.name}")
            except ModuleNotFoundError as error:
                if error.name not in self.optional:
                    raise
                self.absent[module.name] = f"needs the package {error.name}, which is not installed"

    def __getitem__(self, name: str) -> T:
        self._fill()
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UsageError(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(sorted(self._entries))}.")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries

    def __len__(self) -> int:
        self._fill()
        return len(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """(name, object) in order of name."""
        return ((name, self[name]) for name in self)
