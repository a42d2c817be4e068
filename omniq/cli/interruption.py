"""Ctrl-C and a polite kill: an interrupted command says in one sentence how to go on, and has exit codes of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: as shells have them, 128 and the signal's number."""
HEARD = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
"""Ctrl-C, and what batch systems and `kill` send first."""


class Interruption(AbstractContextManager):
    """Inside, the first signal raises KeyboardInterrupt, so that files are closed and temporary ones removed.

    Whatever that turns into on its way out, the end is `say(sentence)` and the signal's exit code. A second signal does
    not wait for it: nothing that lies on disk needs closing to be gone on with. A command that gets to its end in spite
    of a signal has ended well.
    """

    def __init__(self, sentence: str, say: Callable[[str], None]) -> None:
        self.sentence, self.say = sentence, say
        self.code: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.before = {number: signal.signal(number, self._heard) for number in HEARD}
        return self

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None:
            os.write(2, f"omniq: {self.sentence}\n".encode())
            os._exit(self.code)
        self.code = HEARD[signal.Signals(number)]
        raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self._ending(error)
        if code is not None:
            self.say(self.sentence)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if code is not None:
            sys.exit(code)

    def _ending(self, error: BaseException | None) -> int | None:
        """The exit code of an interruption, or None for any other end."""
        left = error.code if isinstance(error, SystemExit) else None
        if error is None or (isinstance(error, SystemExit) and not left):
            return None
        # The command line gives 130 for a KeyboardInterrupt, wherever it came from.
        return self.code or (INTERRUPTED if left == INTERRUPTED or isinstance(error, KeyboardInterrupt) else None)
