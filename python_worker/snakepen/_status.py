"""The page that the worker shares with Rust: what must be known without a message, and after a death."""

from __future__ import annotations

from _thread import allocate_lock
from mmap import mmap

BYTES = 8192
CALLS = 256
"""So many requests a worker holds at most."""

# Words.
PHASE = 0
COPIED = 64
RELEASED = 65
MARKS = 66
HOLDER = 67
STARTED = 255
"""A place for a plain handler, and CALLS more."""
NOBODY = (1 << 64) - 1
CANCELLED = 512
WITHDRAWN = 768

BOOTING = 0
IDLE = 1
RUNNING = 2
EXITING = 3


class StatusPage:
    __slots__ = ("_fence", "_words")

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap(fd, BYTES)).cast("Q")
        self._fence = allocate_lock()

    def start(self, id: int, place: int = 0) -> None:
        """Said before the handler is entered: after a death, Rust knows by it what may have run. A place is of one
        request, until that has been answered."""
        words = self._words
        words[STARTED + place] = id
        words[PHASE] = RUNNING

    def is_withdrawn(self, id: int) -> bool:
        """Whether Rust has taken the request back that is just being started: nobody is to run it here.

        Rust writes its mark before it looks for what `start` has written. Here it is the other way round, and to take a
        lock orders the two: one side sees what the other has written.
        """
        self._fence.acquire()
        self._fence.release()
        words = self._words
        return words[MARKS] != 0 and id in words[WITHDRAWN : WITHDRAWN + CALLS]

    def is_cancelled(self, id: int) -> bool:
        """Whether Rust wants the request cancelled."""
        words = self._words
        return words[CANCELLED] == id or id in words[CANCELLED + 1 : CANCELLED + CALLS]

    def copied(self) -> int:
        """The serial of the result whose buffers Rust has copied last."""
        return self._words[COPIED]

    def released(self, serial: int, kept: bool) -> None:
        """The request whose arguments have this serial has ended; if something was kept of them, their memory must not
        be written to again."""
        self._words[RELEASED] = serial << 1 | kept

    def held_up_by(self, id: int) -> None:
        """The request whose code keeps the event loop from everything else, or NOBODY. Rust writes 0 before it asks."""
        self._words[HOLDER] = id

    def idle(self) -> None:
        self._words[PHASE] = IDLE

    def exiting(self) -> None:
        self._words[PHASE] = EXITING
