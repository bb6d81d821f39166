"""How far a handler is, for a caller who watches."""

from __future__ import annotations

import time
from _thread import allocate_lock

from . import _errors, _json, _wire
from ._request import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._connection import Connection

_BURST = 16
"""So many reports are sent at once,"""
_PAUSE = 0.01
"""and after them one per so many seconds; of those between, the last one that comes before the answer."""

_MAX_MESSAGE = 4096


def progress(done: float, total: float | None = None, message: str = "") -> None:
    """Tells the caller how far this handler is, if it watches (`Call::progress` in Rust); else this does nothing.

    `done` and `total` count in whatever unit the handler likes. A tight loop may call it: at most 16 reports are sent
    at once, then 100 per second; those between are left out, but for the last one, which always comes before the
    result. A message is cut to 4 KiB. May be called wherever `snakepen.current()` works, threads with their context
    included; elsewhere, also outside of a worker, it does nothing. Raises TypeError or ValueError for what isn't a
    finite number.
    """
    done = _number(done, "done")
    total = None if total is None else _number(total, "total")
    if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the message of a progress is a str, not {type(message).__name__}")
    request = running.get()
    if request is not None and request._progress is not None:
        request._progress.tell((done, total, message))


def _number(value: float, what: str) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{what} of a progress is a number, not {type(value).__name__}") from None
    if number - number != 0:
        raise ValueError(f"{what} of a progress is a finite number, not {value!r:.80}")
    return number


class Watch:
    """A request's progress, for a caller who watches."""

    __slots__ = ("_connection", "_id", "_last", "_left", "_lock", "_waits")

    def __init__(self, connection: Connection, id: int) -> None:
        self._connection = connection
        self._id = id
        self._lock = allocate_lock()
        self._left = float(_BURST)
        self._last = time.monotonic()
        self._waits: tuple[float, float | None, str] | None = None

    def tell(self, report: tuple[float, float | None, str]) -> None:
        self._waits = report
        if not self._lock.acquire(False):
            return  # another thread is at it, or this one, and a signal handler has interrupted it
        try:
            now = time.monotonic()
            self._left = min(_BURST, self._left + (now - self._last) / _PAUSE)
            self._last = now
            if self._left >= 1:
                self._left -= 1
                self._send()
        finally:
            self._lock.release()

    def flush(self) -> None:
        """Before the answer."""
        if self._waits is not None:
            self._send()

    def _send(self) -> None:
        report, self._waits = self._waits, None
        if report is not None:
            done, total, message = report
            text = _errors.shorten(message, _MAX_MESSAGE)
            self._connection.send(_wire.PROGRESS, self._id, json=_json.dumps([done, total, text]))
