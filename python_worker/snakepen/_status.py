"""The page that the worker shares with Rust: what must be known without a message, and after a death."""

from __future__ import annotations

from mmap import mmap

BYTES = 8192
CALLS = 256
"""So many requests a worker holds at most."""

# Words.
PHASE = 0
STARTED = 255
"""A place for a plain handler, and CALLS more."""
CANCELLED = 512

BOOTING = 0
IDLE = 1
RUNNING = 2
EXITING = 3


class StatusPage:
    __slots__ = ("_words",)

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap(fd, BYTES)).cast("Q")

    def start(self, id: int, place: int = 0) -> None:
        """Said before the handler is entered: after a death, Rust knows by it what may have run. A place is of one
        request, until that has been answered."""
        words = self._words
        words[STARTED + place] = id
        words[PHASE] = RUNNING

    def is_cancelled(self, id: int) -> bool:
        """Whether Rust wants the request cancelled."""
        words = self._words
        return words[CANCELLED] == id or id in words[CANCELLED + 1 : CANCELLED + CALLS]

    def idle(self) -> None:
        self._words[PHASE] = IDLE

    def exiting(self) -> None:
        self._words[PHASE] = EXITING
