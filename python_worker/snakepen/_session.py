"""Sessions: state that outlives the worker. It is kept by Rust, and read and written over the port."""

from __future__ import annotations

import sys

from . import _json
from ._programs import Programs
from ._request import running
from ._store import ANY, Conflict, SessionError, aask, ask, check_expected, check_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._wire import Frame

VALUE = 0
"""The space of plain values; programs have their own."""

_MISSING: Any = object()


class Session:
    """Named values that all workers and the Rust program share. Obtained from `snakepen.session()`.

    A value is what JSON can say, bytes, or a NumPy array. What is read is a copy: to change it, write it back. Each
    method asks Rust and waits for the answer; those that begin with `a` are for `async def` and let other tasks run
    meanwhile. Threads may use it.

    Reading and writing puts off the session's expiry; writing to one that has expired begins it anew.
    """

    __slots__ = ("id",)

    id: str | None
    """None for the global one."""

    def __init__(self, id: str | None) -> None:
        if id is not None and not isinstance(id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a session's id is a str, not {type(id).__name__}")
        self.id = id

    def __repr__(self) -> str:
        return "<snakepen.Session (global)>" if self.id is None else f"<snakepen.Session {self.id!r}>"

    @property
    def programs(self) -> Programs:
        """The stored programs of this session."""
        return Programs(self)

    # Mapping

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get_versioned(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    # Reading

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` if there is none."""
        found = self.get_versioned(key)
        return default if found is None else found[0]

    async def aget(self, key: str, default: Any = None) -> Any:
        found = await self.aget_versioned(key)
        return default if found is None else found[0]

    def get_versioned(self, key: str) -> tuple[Any, int] | None:
        """The value and its version, or None. No two versions in a store are the same."""
        return _versioned(ask(b"get", [self.id, VALUE, check_key(key), None]))

    async def aget_versioned(self, key: str) -> tuple[Any, int] | None:
        return _versioned(await aask(b"get", [self.id, VALUE, check_key(key), None]))

    def keys(self) -> list[str]:
        """The keys at this moment, sorted."""
        return _json.loads(ask(b"keys", [self.id, VALUE]).json)

    async def akeys(self) -> list[str]:
        return _json.loads((await aask(b"keys", [self.id, VALUE])).json)

    # Writing

    def put(self, key: str, value: Any) -> int:
        """Writes a value, whatever was there; returns its version."""
        return ask(b"put", *_write(self.id, VALUE, key, ANY, value)).arg

    async def aput(self, key: str, value: Any) -> int:
        return (await aask(b"put", *_write(self.id, VALUE, key, ANY, value))).arg

    def compare_and_set(self, key: str, value: Any, expected: int | None) -> int:
        """Writes a value if the present one has this version, or, with None, if there is none; else raises Conflict."""
        return ask(b"put", *_write(self.id, VALUE, key, check_expected(expected), value)).arg

    async def acompare_and_set(self, key: str, value: Any, expected: int | None) -> int:
        return (await aask(b"put", *_write(self.id, VALUE, key, check_expected(expected), value))).arg

    def update(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """Writes `function(value)` and returns it; no update by another worker is lost.

        The function gets `default` where there is no value. If another writes meanwhile it is called again, with what
        is there then: it should do nothing else. What it changes in its argument counts only if it returns it.
        """
        tries = 0
        while True:
            found = self.get_versioned(key)
            value = function(default if found is None else found[0])
            try:
                self.compare_and_set(key, value, None if found is None else found[1])
                return value
            except Conflict:
                tries += 1
                import time

                time.sleep(_pause(tries))

    async def aupdate(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        tries = 0
        while True:
            found = await self.aget_versioned(key)
            value = function(default if found is None else found[0])
            try:
                await self.acompare_and_set(key, value, None if found is None else found[1])
                return value
            except Conflict:
                tries += 1
                import asyncio

                await asyncio.sleep(_pause(tries))

    def delete(self, key: str) -> bool:
        """Whether there was a value."""
        return ask(b"delete", [self.id, VALUE, check_key(key), ANY]).arg == 1

    async def adelete(self, key: str) -> bool:
        return (await aask(b"delete", [self.id, VALUE, check_key(key), ANY])).arg == 1

    # The session

    def info(self) -> dict[str, Any] | None:
        """What is known of the session, or None if it doesn't exist; no access.

        `created` and `accessed` (as of `time.time()`), `ttl` (seconds; None for the global one), `entries`, `bytes`.
        """
        reply = ask(b"info", [self.id])
        return None if reply.name == "missing" else _json.loads(reply.json)

    async def ainfo(self) -> dict[str, Any] | None:
        reply = await aask(b"info", [self.id])
        return None if reply.name == "missing" else _json.loads(reply.json)

    def expire(self) -> bool:
        """Ends the session now, with its values and programs. Whether there was one."""
        return ask(b"expire", [self.id]).arg == 1

    async def aexpire(self) -> bool:
        return (await aask(b"expire", [self.id])).arg == 1

    def touch(self) -> None:
        """Puts off the session's expiry, if there is such a session."""
        ask(b"touch", [self.id])

    async def atouch(self) -> None:
        await aask(b"touch", [self.id])


def session(id: str | None = None) -> Session:
    """The session of the running call, or the one of this id.

    Raises LookupError if the call belongs to none: it was not made by `pool.session("id").call(...)`, or this is a
    thread that the handler started without its context.
    """
    if id is not None:
        return Session(id)
    request = running.get()
    if request is None or request.session is None:
        raise LookupError(
            'this call belongs to no session: make it by pool.session("...").call(...) in Rust, or name one, as in '
            'snakepen.session("user-42")'
            if request is not None
            else 'snakepen.session() was called outside of a request: name a session, as in snakepen.session("user-42")'
        )
    return Session(request.session)


def global_session() -> Session:
    """What belongs to no session, and never expires."""
    return Session(None)


def _pause(tries: int) -> float:
    """Seconds; longer from try to try, and different in every worker."""
    from random import random

    return random() * min(0.0005 * 2**tries, 0.05)


# Values


def _write(id: str | None, space: int, key: str, expected: int, value: Any) -> tuple[list[Any], tuple[memoryview, ...]]:
    json, buffers = split(value)
    return [id, space, check_key(key), expected, json], buffers


def split(value: Any) -> tuple[Any, tuple[memoryview, ...]]:
    """A value as it travels: JSON, and beside it the buffer of bytes or an array."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return None, (_flat(memoryview(value)),)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        array: Any = value
        if array.dtype.hasobject or numpy.dtype(array.dtype.str) != array.dtype:  # fields, and types of other packages
            raise TypeError(
                f"an array of dtype {array.dtype} can't be kept in a session: store arrays of numbers, or JSON"
            )
        if isinstance(array, numpy.ma.MaskedArray):
            raise TypeError("a masked array can't be kept in a session: store its .data and its .mask")
        shape = list(array.shape)
        array = numpy.ascontiguousarray(array)
        return [array.dtype.str, shape], (_flat(memoryview(array.reshape(-1).view("u1"))),)
    return value, ()


def _flat(view: memoryview) -> memoryview:
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _versioned(reply: Frame) -> tuple[Any, int] | None:
    if reply.name == "missing":
        return None
    return value_of(reply), reply.arg


def value_of(reply: Frame) -> Any:
    if not reply.buffers:
        return _json.loads(reply.json)
    kind = _json.loads(reply.json)
    if kind is None:
        return bytes(reply.buffers[0])
    try:
        import numpy
    except ImportError:
        raise SessionError(
            "array", "the value is an array, and NumPy isn't installed in this worker's environment"
        ) from None
    dtype, shape = kind
    return numpy.frombuffer(reply.buffers[0], dtype).reshape(shape).copy()
