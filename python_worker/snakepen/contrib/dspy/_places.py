"""Where programs and settings are: the call's session, and what all sessions share."""

from __future__ import annotations

from typing import Any

import snakepen

from ._errors import ConfigurationError

# As types: what a worker of this version has is checked when it is called.
_api: Any = snakepen


class Place:
    """A session, or the global one."""

    __slots__ = ("scope", "session")

    def __init__(self, scope: str, session: Any) -> None:
        self.scope = scope
        self.session = session


def search(scope: str | None) -> list[Place]:
    """Where something is looked for: without a scope in the call's session first, if it has one, then globally."""
    if scope == "session":
        return [Place("session", _api.session())]
    if scope not in (None, "global"):
        raise ConfigurationError(f'`scope` is "session" or "global", not {scope!r:.100}')
    shared = Place("global", _api.global_session())
    if scope == "global":
        return [shared]
    try:
        return [Place("session", _api.session()), shared]
    except LookupError:
        return [shared]


def own(scope: str | None) -> Place:
    """Where something is written: without a scope in the call's session if it has one, else globally."""
    return search(scope)[0]
