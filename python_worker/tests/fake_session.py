"""The session store's end of the port, in memory: what Rust replies to the questions of `snakepen._store`.

One `Store` can serve several workers, in this process (`Worker`) or as processes of their own (`call`). `dump` and
`load` are what a durable one keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import Port, value

from snakepen import _programs, _session, _store, _wire
from snakepen._request import Place, Request, running

ANY = -1

Reply = tuple[str, int, Any]
"""Name, argument, JSON."""


class Store:
    def __init__(self) -> None:
        self.entries: dict[tuple[str | None, int, str], tuple[str, int]] = {}
        self.version = 0
        self.full = False

    def reply(self, name: str, arguments: list[Any]) -> Reply:
        operation: Callable[..., Reply] = getattr(self, f"_{name}")
        return operation(*arguments)

    def _get(self, scope: str | None, space: int, key: str, known: int | None) -> Reply:
        found = self.entries.get((scope, space, key))
        if found is None:
            return "missing", 0, None
        if known is not None and found[1] == known:
            return "unchanged", known, None
        return "value", found[1], json.loads(found[0])

    def _put(self, scope: str | None, space: int, key: str, expected: int, value: Any) -> Reply:
        if self.full:
            return "error:full", 0, "the store is full"
        found = self.entries.get((scope, space, key), ("", 0))[1]
        if expected not in (ANY, found):
            return "conflict", found, f"{key!r} is of version {found}, not {expected}"
        self.version += 1
        self.entries[scope, space, key] = (json.dumps(value), self.version)
        return "done", self.version, None

    def _delete(self, scope: str | None, space: int, key: str, expected: int) -> Reply:
        assert expected == ANY
        return "done", int(self.entries.pop((scope, space, key), None) is not None), None

    def _keys(self, scope: str | None, space: int) -> Reply:
        return "value", 0, sorted(key for at, within, key in self.entries if (at, within) == (scope, space))

    def dump(self) -> str:
        return json.dumps([self.version, [[*key, *entry] for key, entry in self.entries.items()]])

    @staticmethod
    def load(text: str) -> Store:
        store = Store()
        store.version, rows = json.loads(text)
        store.entries = {(scope, space, key): (value, version) for scope, space, key, value, version in rows}
        return store


class Worker:
    """This process as a worker that has nothing yet, and that serves a call."""

    def __init__(self, store: Store, patch: pytest.MonkeyPatch) -> None:
        self.store = store
        self._patch = patch
        self._built: dict[Any, Any] = {}
        self.enter("ann")

    def enter(self, session: str | None) -> None:
        """From here on, this worker serves a call of that session."""
        self._patch.setattr(_programs, "_built", self._built)
        for module in (_session, _programs):
            self._patch.setattr(module, "ask", self._ask)
        running.set(Request(1, "test", 0, Place("demo", "demo/worker/0", 0, 1), session))

    @property
    def built(self) -> list[Any]:
        return [kept[2] for kept in self._built.values()]

    def _ask(self, name: bytes, arguments: Any, _buffers: Any = ()) -> Any:
        reply, arg, result = self.store.reply(name.decode(), json.loads(json.dumps(arguments, allow_nan=False)))
        return _store.checked(_wire.Frame(_wire.REPLY, 0, 1, arg, reply, json.dumps(result)))


def call(store: Store, port: Port, handler: str, session: str | None = None, **arguments: Any) -> Any:
    """Calls a handler of a worker process, and replies to its questions: the result, or an `Answer` for an error."""
    port.start_call(handler if session is None else f"{handler}\0{session}", **arguments)
    while (frame := port.receive()).kind in (_wire.ASK, _wire.LOG):
        if frame.kind == _wire.ASK:
            name, arg, result = store.reply(frame.name, json.loads(frame.json))
            port.send(_wire.REPLY, frame.id, arg, name, json.dumps(result).encode())
    return value(frame)
