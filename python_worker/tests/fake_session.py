"""The session API of handlers, in memory: a store, and workers that use it.

Values go through JSON both ways, as they would to Rust. What is a worker's own, the programs that it has built, is
in `Worker`, so that a test can have several, or start one anew.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

KEPT = object()


class SessionError(Exception):
    kind = "fake"


class Conflict(SessionError):
    kind = "conflict"


class Program:
    def __init__(self, id: str, version: int, text: str) -> None:
        fields = json.loads(text)
        self.id = id
        self.version = version
        self.kind: str = fields["kind"]
        self.definition: Any = fields["definition"]
        self.state: Any = fields["state"]
        self.metadata: Any = fields["metadata"]


class Store:
    """Texts and versions by (session, space, key). `dump` and `load` are what a durable one keeps."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str, str], tuple[str, int]] = {}
        self.counter = 0
        self.full = False

    def put(self, key: tuple[str, str, str], value: Any, expected: Any = KEPT) -> int:
        if self.full:
            raise SessionError("the store is full")
        found = self.entries.get(key)
        if expected is not KEPT and expected != (found and found[1]):
            raise Conflict(f"{key} is at {found and found[1]}, not {expected}")
        self.counter += 1
        self.entries[key] = (json.dumps(value, allow_nan=False), self.counter)
        return self.counter

    def dump(self) -> str:
        return json.dumps([self.counter, [[*key, *value] for key, value in self.entries.items()]])

    @staticmethod
    def load(text: str) -> Store:
        store = Store()
        store.counter, rows = json.loads(text)
        store.entries = {(a, b, c): (value, version) for a, b, c, value, version in rows}
        return store


class Programs:
    def __init__(self, worker: Worker, session: str) -> None:
        self._worker = worker
        self._session = session

    def _key(self, id: str) -> tuple[str, str, str]:
        return (self._session, "program", id)

    def create(self, id: str, kind: str, definition: Any, state: Any = None, metadata: Any = None) -> Program:
        fields = {"kind": kind, "definition": definition, "state": state, "metadata": metadata}
        self._worker.store.put(self._key(id), fields, None)
        found = self.get(id)
        assert found is not None
        return found

    def get(self, id: str) -> Program | None:
        found = self._worker.store.entries.get(self._key(id))
        return None if found is None else Program(id, found[1], found[0])

    def list(self) -> list[str]:
        return sorted(
            key for session, space, key in self._worker.store.entries if (session, space) == self._key("")[:2]
        )

    def update(self, id: str, expected: int | None = None, **fields: Any) -> Program:
        assert {*fields} <= {"definition", "state", "metadata"}
        found = self.get(id)
        if found is None:
            raise LookupError(f"no program {id!r}")
        if expected is not None and found.version != expected:
            raise Conflict(f"{id} is at {found.version}, not {expected}")
        self._worker.store.put(self._key(id), {**vars(found), **fields}, found.version)
        found = self.get(id)
        assert found is not None
        return found

    def delete(self, id: str) -> bool:
        return self._worker.store.entries.pop(self._key(id), None) is not None

    def built(self, id: str, build: Callable[[Program], Any]) -> Any:
        found = self.get(id)
        if found is None:
            raise LookupError(f"no program {id!r}")
        key = (self._session, id, found.version)
        if key not in self._worker.built:
            self._worker.built[key] = build(found)
            self._worker.builds += 1
            if len(self._worker.built) > 16:
                self._worker.built.popitem(last=False)
        return self._worker.built[key]


class Session:
    def __init__(self, worker: Worker, id: str) -> None:
        self._store = worker.store
        self.id = id
        self.programs = Programs(worker, id)

    def _key(self, key: str) -> tuple[str, str, str]:
        return (self.id, "value", key)

    def get(self, key: str, default: Any = None) -> Any:
        found = self.get_versioned(key)
        return default if found is None else found[0]

    def get_versioned(self, key: str) -> tuple[Any, int] | None:
        found = self._store.entries.get(self._key(key))
        return None if found is None else (json.loads(found[0]), found[1])

    def put(self, key: str, value: Any) -> int:
        return self._store.put(self._key(key), value)

    def compare_and_set(self, key: str, value: Any, expected: int | None) -> int:
        return self._store.put(self._key(key), value, expected)

    def update(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        value = function(self.get(key, default))
        self.put(key, value)
        return value

    def delete(self, key: str) -> bool:
        return self._store.entries.pop(self._key(key), None) is not None

    def keys(self) -> list[str]:
        return sorted(key for session, space, key in self._store.entries if (session, space) == (self.id, "value"))


class Worker:
    """Stands for `snakepen` in one worker, whose call has the session `current`, if any."""

    def __init__(self, store: Store, current: str | None = None) -> None:
        self.store = store
        self.current = current
        self.built: OrderedDict[tuple[str, str, int], Any] = OrderedDict()
        self.builds = 0

    def session(self, id: str | None = None) -> Session:
        if id is None and self.current is None:
            raise LookupError("this call has no session")
        return Session(self, id or self.current or "")

    def global_session(self) -> Session:
        return Session(self, "*global*")

    def enter(self, snakepen: Any) -> None:
        snakepen.session = self.session
        snakepen.global_session = self.global_session
        snakepen.SessionError = SessionError
        snakepen.Conflict = Conflict
