"""Where programs and settings are: the call's session, and what all sessions share."""

from __future__ import annotations

from snakepen import Session, global_session, session

from ._errors import ConfigurationError


class Place:
    """A session, or the global one."""

    __slots__ = ("scope", "session")

    def __init__(self, scope: str, session: Session) -> None:
        self.scope = scope
        self.session = session


def search(scope: str | None) -> list[Place]:
    """Where something is looked for: without a scope in the call's session first, if it has one, then globally."""
    if scope == "session":
        return [Place("session", session())]
    if scope not in (None, "global"):
        raise ConfigurationError(f'`scope` is "session" or "global", not {scope!r:.100}')
    shared = Place("global", global_session())
    if scope == "global":
        return [shared]
    try:
        return [Place("session", session()), shared]
    except LookupError:
        return [shared]


def own(scope: str | None) -> Place:
    """Where something is written: without a scope in the call's session if it has one, else globally."""
    return search(scope)[0]
