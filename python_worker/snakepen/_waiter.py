"""Who waits for a frame: a thread, or a task."""

from __future__ import annotations

from _thread import allocate_lock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from ._wire import Frame

_LOOK = 1.0
"""Who sleeps looks so often whether the place is free: whoever was woken for it may be in a long signal handler."""


class Waiter:
    """A thread that waits for a frame: for the reply to its question, or, the main one, for a call."""

    __slots__ = ("_lock", "frame", "may_leave", "token")

    def __init__(self, may_leave: bool = False) -> None:
        self.frame: Frame | None = None
        self.token = 0
        self.may_leave = may_leave
        """It is the main thread, which a cancellation may interrupt while it waits."""
        self._lock = allocate_lock()
        self._lock.acquire()

    def deliver(self, frame: Frame) -> None:
        self.frame = frame
        self.wake()

    def wake(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it has been woken, and not looked yet
            pass

    def sleep(self, seconds: float = _LOOK) -> None:
        self._lock.acquire(True, min(seconds, _LOOK))


class Awaiter:
    """A task that waits for a reply."""

    __slots__ = ("_future", "_loop", "_thread", "token")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self.token = 0
        self._thread = get_ident()
        self._future: Future[Frame] = loop.create_future()

    def deliver(self, frame: Frame) -> None:
        if get_ident() == self._thread:
            self._settle(frame)
        else:
            try:
                self._loop.call_soon_threadsafe(self._settle, frame)
            except RuntimeError:  # the loop is closed, and its tasks have ended: the worker leaves
                pass

    def _settle(self, frame: Frame) -> None:
        if not self._future.done():  # its task may have been cancelled
            self._future.set_result(frame)

    def reply(self) -> Future[Frame]:
        return self._future
