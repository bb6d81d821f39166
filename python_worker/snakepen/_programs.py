"""Programs: stored, versioned definitions, and what a worker has built of them."""

from __future__ import annotations

from . import _json
from ._store import ANY, SessionError, aask, ask, check_expected, check_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ._session import Session
    from ._wire import Frame

    Built = TypeVar("Built")

PROGRAM = 1
"""The space of programs."""

_KEPT = 64

_built: dict[tuple[str | None, str], tuple[int, Any, Any]] = {}
"""By session and id, the last one used at the end: version, the code that built it, and what it built."""

_UNCHANGED: Any = object()


class Program:
    """A stored program: its definition, and the state that it has gained. All but the version is JSON."""

    __slots__ = ("definition", "id", "kind", "metadata", "state", "version")

    def __init__(self, id: str, kind: str, definition: Any, state: Any, metadata: Any, version: int) -> None:
        self.id = id
        self.kind = kind
        self.definition = definition
        self.state = state
        self.metadata = metadata
        self.version = version

    def __repr__(self) -> str:
        return f"<snakepen.Program {self.id!r} of kind {self.kind!r}, version {self.version}>"


class Programs:
    """The programs of a session, or the global ones. Obtained from `session.programs`."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, id: str, kind: str, definition: Any, state: Any = None, metadata: Any = None) -> Program:
        """Stores a new program. Raises Conflict if there is one of this id."""
        program = Program(id, kind, definition, state, metadata, 0)
        return _stored(program, ask(b"put", self._put(program, 0)))

    async def acreate(self, id: str, kind: str, definition: Any, state: Any = None, metadata: Any = None) -> Program:
        program = Program(id, kind, definition, state, metadata, 0)
        return _stored(program, await aask(b"put", self._put(program, 0)))

    def get(self, id: str) -> Program | None:
        """The program, or None."""
        return _found(id, ask(b"get", self._get(id, None)))

    async def aget(self, id: str) -> Program | None:
        return _found(id, await aask(b"get", self._get(id, None)))

    def list(self) -> list[str]:
        """The ids, sorted."""
        return _json.loads(ask(b"keys", [self._session.id, PROGRAM]).json)

    async def alist(self) -> list[str]:
        return _json.loads((await aask(b"keys", [self._session.id, PROGRAM])).json)

    def update(
        self,
        id: str,
        expected: int | None = None,
        *,
        kind: Any = _UNCHANGED,
        definition: Any = _UNCHANGED,
        state: Any = _UNCHANGED,
        metadata: Any = _UNCHANGED,
    ) -> Program:
        """Stores a new version, in which what isn't given is as before.

        Raises LookupError if there is no such program, and Conflict if it is not of the `expected` version, or, without
        one, if another changes it at the same moment.
        """
        program = self.get(id)
        if program is None:
            raise self._unknown(id, self.list())
        _change(program, kind, definition, state, metadata)
        version = program.version if expected is None else check_expected(expected)
        return _stored(program, ask(b"put", self._put(program, version)))

    async def aupdate(
        self,
        id: str,
        expected: int | None = None,
        *,
        kind: Any = _UNCHANGED,
        definition: Any = _UNCHANGED,
        state: Any = _UNCHANGED,
        metadata: Any = _UNCHANGED,
    ) -> Program:
        program = await self.aget(id)
        if program is None:
            raise self._unknown(id, await self.alist())
        _change(program, kind, definition, state, metadata)
        version = program.version if expected is None else check_expected(expected)
        return _stored(program, await aask(b"put", self._put(program, version)))

    def delete(self, id: str) -> bool:
        """Whether there was one."""
        return ask(b"delete", self._delete(id)).arg == 1

    async def adelete(self, id: str) -> bool:
        return (await aask(b"delete", self._delete(id))).arg == 1

    def built(self, id: str, build: Callable[[Program], Built]) -> Built:
        """`build(program)`, kept in this worker until the program changes; of all sessions the last 64 that were used.

        What it builds should depend on nothing but the program. Raises LookupError if there is no such program.
        """
        known, kept = self._kept(id, build)
        reply = ask(b"get", self._get(id, known))
        if reply.name == "missing":
            raise self._unknown(id, self.list())
        return self._built(id, build, kept, reply)

    async def abuilt(self, id: str, build: Callable[[Program], Built]) -> Built:
        known, kept = self._kept(id, build)
        reply = await aask(b"get", self._get(id, known))
        if reply.name == "missing":
            raise self._unknown(id, await self.alist())
        return self._built(id, build, kept, reply)

    # What is built

    def _kept(self, id: str, build: Any) -> tuple[int | None, Any]:
        """The version that this worker has built with the same code, and what it has kept."""
        kept = _built.pop((self._session.id, check_key(id, "program's id")), None)
        return (kept[0] if kept is not None and kept[1] is _code(build) else None), kept

    def _built(self, id: str, build: Any, kept: Any, reply: Frame) -> Any:
        if reply.name != "unchanged":
            program = _found(id, reply)
            assert program is not None
            kept = (program.version, _code(build), build(program))
        _built[(self._session.id, id)] = kept
        for oldest in list(_built)[:-_KEPT]:  # threads may build as well
            _built.pop(oldest, None)
        return kept[2]

    # Questions

    def _get(self, id: str, known: int | None) -> Any:
        return [self._session.id, PROGRAM, check_key(id, "program's id"), known]

    def _put(self, program: Program, expected: int) -> Any:
        if not isinstance(program.kind, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a program's kind is a str, not {type(program.kind).__name__}")
        stored = {
            "kind": program.kind,
            "definition": program.definition,
            "state": program.state,
            "metadata": program.metadata,
        }
        return [self._session.id, PROGRAM, check_key(program.id, "program's id"), expected, stored]

    def _delete(self, id: str) -> Any:
        _built.pop((self._session.id, check_key(id, "program's id")), None)
        return [self._session.id, PROGRAM, id, ANY]

    def _unknown(self, id: str, known: list[str]) -> LookupError:
        where = "globally" if self._session.id is None else f"in session {self._session.id!r}"
        names = ", ".join(map(repr, known[:20])) or "none"
        return LookupError(f"there is no program {id!r} {where}; there are: {names}")


def _code(build: Any) -> Any:
    """Of a function that is made anew in each call, still the same."""
    return getattr(build, "__code__", build)


def _found(id: str, reply: Frame) -> Program | None:
    if reply.name == "missing":
        return None
    try:
        stored = _json.loads(reply.json)
        return Program(id, stored["kind"], stored["definition"], stored["state"], stored["metadata"], reply.arg)
    except (KeyError, TypeError, ValueError):
        raise SessionError("value", f"what is stored as program {id!r} is none") from None


def _stored(program: Program, reply: Frame) -> Program:
    program.version = reply.arg
    return program


def _change(program: Program, kind: Any, definition: Any, state: Any, metadata: Any) -> None:
    if kind is not _UNCHANGED:
        program.kind = kind
    if definition is not _UNCHANGED:
        program.definition = definition
    if state is not _UNCHANGED:
        program.state = state
    if metadata is not _UNCHANGED:
        program.metadata = metadata
