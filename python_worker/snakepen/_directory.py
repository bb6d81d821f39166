"""The working directory: every request begins in the same one, wherever the one before has gone."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

changed = False
"""Since the last look. Asking the kernel after each request would cost it a twentieth of a small call."""

_home: str | None = None


def install() -> None:
    """Before any of the user's modules may take the functions from `os`."""
    os.chdir = _noting(os.chdir)
    os.fchdir = _noting(os.fchdir)


def settle() -> None:
    """What the handlers' files have chosen stays."""
    global _home, changed
    changed = False
    try:
        _home = os.getcwd()
    except OSError:  # it has been removed
        _home = None


def restore() -> bool:
    """Goes back; whether that could be done."""
    global changed
    changed = False
    try:
        if _home is not None:
            _chdir(_home)
        return _home is not None
    except OSError:
        return False


_chdir = os.chdir


def _noting(function: Any) -> Any:
    def note(path: Any) -> None:
        global changed
        changed = True
        function(path)

    note.__name__ = note.__qualname__ = function.__name__
    note.__doc__ = function.__doc__
    return note
