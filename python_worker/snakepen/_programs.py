"""Programs: stored, versioned definitions, and what a worker has built of them."""

from __future__ import annotations

from . import _json
from ._store import ANY, ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ._session import Session

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
        return self._put(Program(id, kind, definition, state, metadata, 0), 0)

    def get(self, id: str) -> Program | None:
        """The program, or None."""
        return self._get(id, None)

    def list(self) -> list[str]:
        """The ids, sorted."""
        return _json.loads(ask(b"keys", [self._session.id, PROGRAM]).json)

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
            raise self._unknown(id)
        if kind is not _UNCHANGED:
            program.kind = kind
        if definition is not _UNCHANGED:
            program.definition = definition
        if state is not _UNCHANGED:
            program.state = state
        if metadata is not _UNCHANGED:
            program.metadata = metadata
        return self._put(program, program.version if expected is None else expected)

    def delete(self, id: str) -> bool:
        """Whether there was one."""
        _built.pop((self._session.id, id), None)
        return ask(b"delete", [self._session.id, PROGRAM, id, ANY]).arg == 1

    def built(self, id: str, build: Callable[[Program], Built]) -> Built:
        """`build(program)`, kept in this worker until the program changes; of all sessions the last 64 that were used.

        What it builds should depend on nothing but the program. Raises LookupError if there is no such program.
        """
        place = (self._session.id, id)
        code = getattr(build, "__code__", build)  # of a function that is made anew in each call, still the same
        kept = _built.pop(place, None)
        known = kept[0] if kept is not None and kept[1] is code else None
        program = self._get(id, known)
        if program is None:
            raise self._unknown(id)
        if program is _UNCHANGED and kept is not None:
            _built[place] = kept
            return kept[2]
        built = build(program)
        _built[place] = (program.version, code, built)
        while len(_built) > _KEPT:
            del _built[next(iter(_built))]
        return built

    def _get(self, id: str, known: int | None) -> Any:
        reply = ask(b"get", [self._session.id, PROGRAM, id, known])
        if reply.name == "missing":
            return None
        if reply.name == "unchanged":
            return _UNCHANGED
        stored = _json.loads(reply.json)
        return Program(id, stored["kind"], stored["definition"], stored["state"], stored["metadata"], reply.arg)

    def _put(self, program: Program, expected: int) -> Program:
        stored = {
            "kind": program.kind,
            "definition": program.definition,
            "state": program.state,
            "metadata": program.metadata,
        }
        reply = ask(b"put", [self._session.id, PROGRAM, program.id, expected, stored])
        program.version = reply.arg
        return program

    def _unknown(self, id: str) -> LookupError:
        where = "globally" if self._session.id is None else f"in session {self._session.id!r}"
        known = ", ".join(map(repr, self.list()[:20])) or "none"
        return LookupError(f"there is no program {id!r} {where}; there are: {known}")
