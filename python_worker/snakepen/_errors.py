"""Exceptions as plain data: type, message, traceback and cause."""

from __future__ import annotations

import os

from . import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException
    from typing import Any

MAX_MESSAGE = 64 * 1024
MAX_TRACEBACK = 256 * 1024
MAX_CHAIN = 16

_READ_ONLY = "(If that is an argument: they are read-only, but for a handler with @snakepen.handler(writable=True).)\n"
_WRITTEN_TO = frozenset(
    (
        "cannot modify read-only memory",
        "assignment destination is read-only",
        "output array is read-only",
        "sort array is read-only",
        "buffer source array is read-only",
    )
)
"""What memoryviews, NumPy and Cython say of one that is written to."""

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def describe(error: BaseException) -> dict[str, Any]:
    """The exception, and what it arose from, at most 16 deep. Never raises because of what it describes."""
    try:
        from traceback import TracebackException

        trace: TracebackException | None = TracebackException.from_exception(error)
    except Exception:
        trace = None
    seen: set[int] = set()
    first: dict[str, Any] = {}
    last = first
    at = error
    while True:
        seen.add(id(at))
        last.update(_describe_one(at, trace))
        if at.__cause__ is not None:
            relation, at, trace = "cause", at.__cause__, trace and trace.__cause__
        elif at.__context__ is not None and not at.__suppress_context__:
            relation, at, trace = "context", at.__context__, trace and trace.__context__
        else:
            break
        if id(at) in seen or len(seen) == MAX_CHAIN:
            break
        last["relation"] = relation
        last["cause"] = last = {}
    return first


def _describe_one(error: BaseException, trace: TracebackException | None) -> dict[str, Any]:
    kind = type(error)
    try:
        message = str(error)
    except BaseException as broken:
        message = f"<its __str__ raised {type(broken).__name__}>"
    try:
        assert trace is not None
        _cut_frames(trace)
        text = "".join(trace.format(chain=False))
    except Exception:
        text = f"{kind.__qualname__}: {message}\n"
    if message in _WRITTEN_TO and kind in (ValueError, TypeError):
        text += _READ_ONLY
    return {
        "type": sound(kind.__qualname__),
        "module": sound(str(kind.__module__)),
        "message": shorten(message, MAX_MESSAGE),
        "traceback": shorten(text, MAX_TRACEBACK),
        "cause": None,
        "relation": None,
    }


def _cut_frames(trace: TracebackException) -> None:
    """Drops the frames through which the worker came to the user's code."""
    stack = trace.stack
    ours = 0
    while ours < len(stack) and _is_machinery(stack[ours].filename):
        ours += 1
    del stack[:ours]


def _is_machinery(filename: str) -> bool:
    return (
        filename.startswith((_HERE, "<frozen importlib"))
        or filename == _import_module_file
        or filename.endswith(("/asyncio/base_events.py", "/asyncio/runners.py"))
    )


_import_module_file = __import__("importlib").__file__


def sound(text: str) -> str:
    """The text with lone surrogates spelled out: those can't be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def shorten(text: str, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8, cut in the middle."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    mark = f"\n[... {len(data) - limit} bytes cut ...]\n"
    half = max(0, limit - len(mark) - 8) // 2
    return data[:half].decode("utf-8", "ignore") + mark + data[len(data) - half :].decode("utf-8", "ignore")


def encode_within(value: Any, limit: int) -> bytes:
    """The value as JSON of at most `limit` bytes: texts get shorter until it fits."""
    budget = MAX_TRACEBACK
    while True:
        data = _json.dumps(value)
        if len(data) <= limit or budget < 16:
            return data
        budget //= 2
        value = _shortened(value, budget)


def _shortened(value: Any, budget: int) -> Any:
    if isinstance(value, str):
        return shorten(value, budget)
    if isinstance(value, dict):
        return {key: _shortened(item, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, budget) for item in value[:budget]]
    return value
