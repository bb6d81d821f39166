"""Asking Rust's session store: errors, and the way there and back."""

from __future__ import annotations

from . import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._connection import Connection
    from ._wire import Frame

ANY = -1
"""Expected where any version will do."""
ABSENT = 0
"""Expected where there must be none."""


class SessionError(Exception):
    """A session can't do what was asked. `kind` says why in one word, such as `full` or `too_large`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


SessionError.__module__ = "snakepen"  # where it is found


class Conflict(SessionError):
    """The value isn't of the version that was expected. `found` is the version that it has; 0 if there is none."""

    def __init__(self, message: str, found: int) -> None:
        super().__init__("conflict", message)
        self.found = found


Conflict.__module__ = "snakepen"


class StateError(Exception):
    """An actor's method has run, but the actor's state could not be saved after it."""


StateError.__module__ = "snakepen"


class StaleState(StateError):
    """Somebody else has written the actor's state: the instance is of no use any more, and built anew."""


StaleState.__module__ = "snakepen"


_connection: Connection | None = None


def install(connection: Connection) -> None:
    global _connection
    _connection = connection


def port_for(what: str) -> Connection:
    port = _connection
    if port is None or not port.ready:
        raise RuntimeError(f"{what} are there for handlers: not while modules are loaded, and not outside of a worker")
    if port.abandoned:
        raise RuntimeError(f"a process that a handler has forked has no {what}: its worker's port isn't its own")
    return port


def ask(name: bytes, arguments: Any, buffers: Sequence[memoryview] = ()) -> Frame:
    return ask_encoded(name, encoded(arguments), buffers)


def ask_encoded(name: bytes, json: bytes, buffers: Sequence[memoryview] = ()) -> Frame:
    port = port_for("sessions")
    _check_size(json, buffers, port)
    return checked(port.ask(name, json, buffers))


async def aask(name: bytes, arguments: Any, buffers: Sequence[memoryview] = ()) -> Frame:
    return await aask_encoded(name, encoded(arguments), buffers)


async def aask_encoded(name: bytes, json: bytes, buffers: Sequence[memoryview] = ()) -> Frame:
    import asyncio

    port = port_for("sessions")
    _check_size(json, buffers, port)
    loop = asyncio.get_running_loop()
    if loop is port.served_by:
        return checked(await port.ask_from(loop, name, json, buffers))
    # A loop that a handler runs by itself, in a thread perhaps, doesn't read the port.
    return checked(await asyncio.to_thread(port.ask, name, json, buffers))


_OPERANDS = {"$[0]": "a session's id", "$[1]": "a space", "$[2]": "a key"}


def encoded(arguments: Any) -> bytes:
    """Raises TypeError for what can't be kept."""
    try:
        return _json.dumps(arguments)
    except _json.Unserialisable as error:
        operand = _OPERANDS.get(error.path)
        if operand is not None:
            raise ValueError(f"{operand} is text that UTF-8 can say: {error.message}") from None
        path = error.path.replace("$[4]", "$", 1)
        advice = error.message.replace("return ", "store ")
        raise TypeError(f"can't be kept in a session: {error.type_name} at {path}: {advice}") from None


def _check_size(json: bytes, buffers: Sequence[memoryview], port: Connection) -> None:
    # What the frame has beside them is less.
    size = len(json) + sum(map(len, buffers)) + 64
    if size > port.max_frame:
        raise SessionError(
            "too_large", f"the value takes {size} bytes, the pool's largest frame is {port.max_frame} (max_frame)"
        )


def checked(reply: Frame) -> Frame:
    if reply.name == "conflict":
        raise Conflict(_json.loads(reply.json), reply.arg)
    if reply.name.startswith("error:"):
        raise SessionError(reply.name[6:], _json.loads(reply.json))
    return reply


def check_key(key: str, what: str = "key") -> str:
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a {what} is a str, not {type(key).__name__}")
    return key


def check_expected(version: int | None) -> int:
    if version is None:
        return ABSENT
    if not isinstance(version, int) or isinstance(version, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a version is an int from get_versioned(), or None, not {type(version).__name__}")
    if not 0 <= version < 1 << 63:
        raise ValueError(f"a version is one that get_versioned() has told, or None, not {version}")
    return version
