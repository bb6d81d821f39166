"""The page that the worker shares with Rust: what must be known without a message, and after a death."""

from __future__ import annotations

from mmap import mmap

BYTES = 4096

STARTED = 0
CANCEL = 1
PHASE = 2
COPIED = 64
RELEASED = 65

BOOTING = 0
IDLE = 1
RUNNING = 2
EXITING = 3


class StatusPage:
    __slots__ = ("_words",)

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap(fd, BYTES)).cast("Q")

    def start(self, id: int) -> None:
        """Said before the handler is entered: after a death, Rust knows by it what may have run."""
        self._words[STARTED] = id
        self._words[PHASE] = RUNNING

    def cancelled(self) -> int:
        """The id of the request that Rust wants cancelled, 0 for none."""
        return self._words[CANCEL]

    def copied(self) -> int:
        """The serial of the result whose buffers Rust has copied last."""
        return self._words[COPIED]

    def released(self, serial: int, kept: bool) -> None:
        """The request whose arguments have this serial has ended; if something was kept of them, their memory must not
        be written to again."""
        self._words[RELEASED] = serial << 1 | kept

    def idle(self) -> None:
        self._words[PHASE] = IDLE

    def exiting(self) -> None:
        self._words[PHASE] = EXITING
