"""The request that is being served, as handlers see it."""

from __future__ import annotations

import time

# `contextvars` only re-exports it; a worker's start is counted in single milliseconds.
from _contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._progress import Watch
    from ._stream import Exchange


class Place:
    """Where a worker stands: the same for every request that it serves."""

    __slots__ = ("epoch", "pool", "slot", "worker")

    def __init__(self, pool: str, worker: str, slot: int, epoch: int) -> None:
        self.pool = pool
        self.worker = worker
        self.slot = slot
        self.epoch = epoch


class Request:
    """One call from Rust. Obtained from `snakepen.current()`."""

    __slots__ = (
        "_closing",
        "_deadline_ns",
        "_exchange",
        "_generator",
        "_place",
        "_progress",
        "cancelled",
        "handler",
        "id",
        "session",
    )

    id: int
    """The request's number, unique within its pool."""
    handler: str
    """The name under which the handler was called."""
    cancelled: bool
    """True once the caller no longer wants the answer: its deadline has passed, or it went away.

    What can't be interrupted may look at it and return: threads, code in `snakepen.shield()`, an `async def` handler
    that computes. It is true before `snakepen.Cancelled` is raised, or the handler's task cancelled.
    """

    batch: tuple[int, ...] = ()
    """The ids of the requests that are served together, where they are: see `batch` of `snakepen.handler`."""

    session: str | None
    """The id of the session that the call belongs to, if it belongs to one: see `snakepen.session()`."""

    def __init__(self, id: int, handler: str, deadline_ns: int, place: Place, session: str | None = None) -> None:
        self.id = id
        self.session = session
        self.handler = handler
        self.cancelled = False
        self._deadline_ns = deadline_ns
        self._place = place
        self._exchange: Exchange | None = None  # what its caller wants beside an answer
        self._generator: Any = None  # what its handler has returned, while that runs
        self._closing = False  # it has been told that it is to end, by its generator's end perhaps
        self._progress: Watch | None = None  # its caller watches

    @property
    def deadline(self) -> float | None:
        """The moment, in seconds of `time.monotonic()`, at which the caller stops waiting; None is never."""
        return self._deadline_ns / 1e9 if self._deadline_ns else None

    def remaining(self) -> float | None:
        """Seconds left until the deadline, never below zero; None without a deadline."""
        if not self._deadline_ns:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)

    @property
    def worker(self) -> str:
        """The worker's registered name, such as `demo/worker/3`."""
        return self._place.worker

    @property
    def slot(self) -> int:
        """The worker's slot in its pool, from 0. A replacement takes over the slot."""
        return self._place.slot

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self._place.pool

    def __repr__(self) -> str:
        return f"<snakepen.Request {self.id} {self.handler!r} on {self.worker!r}>"


running: ContextVar[Request | None] = ContextVar("snakepen.request", default=None)


def current() -> Request:
    """The request that this code serves.

    Follows `contextvars`: tasks and `asyncio.to_thread` see their request, threads that a handler starts
    by itself don't. Raises RuntimeError outside of a request.
    """
    request = running.get()
    if request is None:
        raise RuntimeError(
            "snakepen.current() was called outside of a request: it works inside a handler that a Snakepen "
            "worker runs, and not in a thread that the handler started without its context"
        )
    return request
