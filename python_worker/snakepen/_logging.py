"""Python's logging, sent to Rust with its level and its logger's name."""

from __future__ import annotations

import sys

from . import _errors, _request, _wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from importlib.machinery import ModuleSpec
    from typing import Any

    from ._connection import Connection

MAX_NAME = 256
MAX_MESSAGE = 256 * 1024


def install(connection: Connection, level: int) -> None:
    """Puts the handler on the root logger, now or when `logging` is first imported.

    Importing it here would double the time that a worker takes to start.
    """
    if "logging" in sys.modules:
        _install(connection, level)
    else:
        sys.meta_path.insert(0, _Finder(connection, level))


class _Finder:
    """Finds nothing but `logging`, once, and installs the handler after its import."""

    def __init__(self, connection: Connection, level: int) -> None:
        self._connection = connection
        self._level = level

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "logging":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_install(module: Any) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            if hasattr(module, "Handler"):  # else it is the user's own module of that name
                _install(self._connection, self._level)

        loader.exec_module = execute_and_install
        return spec


def _install(connection: Connection, level: int) -> None:
    import logging

    class PortHandler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            # Without the lock of the base class: sending needs none, and one more can't be left held.
            if not self.filter(record):
                return False
            self.emit(record)
            return True

        def emit(self, record: logging.LogRecord) -> None:
            try:
                _send(connection, record)
            except Exception:
                pass  # a log line is never a reason for user code to fail

    root = logging.getLogger()
    root.addHandler(PortHandler())
    root.setLevel(level)


def _send(connection: Connection, record: logging.LogRecord) -> None:
    message = _text(record)
    if connection.abandoned:
        # A process that a handler forked has no port, but its standard error is read.
        sys.stderr.write(f"{record.levelname}:{record.name}:{_errors.sound(message)}\n")
        return
    request = _request.running.get()
    name = record.name.encode("utf-8", "backslashreplace")[:MAX_NAME].decode("utf-8", "ignore").encode()
    room = connection.max_frame - len(name)
    connection.send(
        _wire.LOG,
        request.id if request is not None else 0,
        max(0, int(record.levelno)),
        name,
        _errors.encode_within(_errors.shorten(message, MAX_MESSAGE), room),
    )


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:
        text = f"{record.msg!r} % {record.args!r} ({type(error).__name__}: {error})"
    if record.exc_info and not record.exc_text:
        import logging

        record.exc_text = logging.Formatter().formatException(record.exc_info)
    return "\n".join(part for part in (text, record.exc_text, record.stack_info) if part)
