"""A worker process: set-up, and the ways out."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
from importlib import import_module

from . import _directory, _errors, _handlers, _json, _linux, _logging, _startup, _store, _wire
from ._cancel import Cancellation
from ._connection import Connection, PortEnded
from ._segment import Lane
from ._serve import Leave, Server
from ._status import StatusPage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ._config import Birth

PROTOCOL_EXIT = 70


def run(birth: Birth, *, fresh: bool = False) -> NoReturn:
    """Everything after the fork or exec, with nothing but the worker's own descriptors open. Never returns:
    what called it is the launcher, or an interpreter whose tear-down would be the user's code once more."""
    try:
        connection = Connection(birth.descriptors.port, birth.config.max_frame)
    except BaseException as error:
        _explain(f"snakepen: the worker can't use its port: {error!r}")
        os._exit(1)
    try:
        _run(birth, connection, fresh)
    except BaseException as error:
        leave_for_good(error, connection)


def _run(birth: Birth, connection: Connection, fresh: bool) -> NoReturn:
    config = birth.config
    descriptors = birth.descriptors
    _linux.give_way()  # before any code of the user's, which may shut itself into a sandbox
    faulthandler.enable(descriptors.dump)
    page = StatusPage(descriptors.status)
    os.close(descriptors.status)
    lane = connection.lane = Lane(descriptors.lane, page, config.shared_memory, config.max_frame)
    os.register_at_fork(after_in_parent=lane.forked)
    cancellation = Cancellation(connection, page, descriptors.dump, config.reuse_after_cancel)
    os.register_at_fork(after_in_child=lambda: _after_fork(connection, cancellation, descriptors.dump))
    cancellation.install()
    _store.install(connection)
    _logging.install(connection, config.log_level)
    _startup.replace_main()
    if config.switch_interval is not None:
        sys.setswitchinterval(config.switch_interval)
    actor = None
    try:
        if fresh:
            _startup.set_up_imports(config)
            _startup.preload(config.preload)
        _load(birth)
        if config.actor is not None:
            from . import _actors

            actor = _actors.settle(connection, config, config.actor)
    except _startup.StartupError as failure:
        _fail(connection, failure)
    if any(_handlers.is_async(function) for function in _handlers.table.values()):
        import_module("asyncio")  # now rather than in the first call
    server = _server(config.concurrency)(connection, page, birth.place, cancellation)
    server.ahead = config.prefetch > 0 or any(_handlers.prefetch.values())
    _linux.name_process(f"{birth.place.pool}/{birth.place.slot}")
    _directory.settle()
    gc.enable()
    page.idle()
    connection.send(_wire.READY, 0, _wire.VERSION, json=_ready())
    connection.ready = True  # after it: a thread that an import has started may ask at once, and READY comes first
    code: Any = None
    try:
        server.run()
    except Leave as leave:
        code = leave.code
    if actor is not None:
        actor.leave()
    _leave(server, connection, page, code)


def _server(concurrency: int) -> type[Server]:
    if concurrency == 1:
        return Server
    from ._overlap import OverlappingServer

    return OverlappingServer


def _load(birth: Birth) -> None:
    stage = "handlers"
    try:
        _handlers.load(birth.config.handlers)
        for name, target in birth.config.expose.items():
            stage = f"expose of `{target}` as `{name}`"
            _handlers.expose(name, target)
        if not _handlers.table and birth.config.handlers and birth.config.actor is None:
            stage = "handlers"
            raise ValueError(f"{_named(birth.config.handlers)} defines none: decorate functions with @snakepen.handler")
    except BaseException as error:
        raise _startup.StartupError(stage, None, error) from error


def _named(handlers: dict[str, str]) -> str:
    return f"the handler file {handlers['file']}" if "file" in handlers else f"the module {handlers['module']!r}"


def _ready() -> bytes:
    handlers = _handlers.table
    told = {
        "python": sys.version.split()[0],
        "pid": os.getpid(),
        "handlers": sorted(handlers),
        "async": sorted(name for name in handlers if _handlers.is_async(handlers[name])),
        "batches": {name: [size, round(wait * 1e6)] for name, (size, wait) in _handlers.batches.items()},
        "prefetch": _handlers.prefetch,
    }
    return _json.dumps(told)


def _fail(connection: Connection, failure: _startup.StartupError) -> NoReturn:
    module = f" of `{failure.module}`" if failure.module else ""
    stage = f"{failure.stage}{module}".encode("utf-8", "replace")
    text = _errors.encode_within(_errors.describe(failure.error), connection.max_frame - len(stage))
    connection.send(_wire.FAILED, 0, 0, stage, text)
    _startup.flush_output()
    connection.flush()
    os._exit(1)


def _after_fork(connection: Connection, cancellation: Cancellation, dump: int) -> None:
    """In a process that a handler has forked: nothing that it says may look like the worker's."""
    connection.abandon()
    cancellation.forget()
    faulthandler.enable(2)
    try:
        os.close(dump)
    except OSError:
        pass


def leave_for_good(error: BaseException, connection: Connection) -> NoReturn:
    """The port is of no use any more: ends at once, and says why if it isn't just closed."""
    if connection.abandoned or isinstance(error, PortEnded):
        _startup.flush_output()
        os._exit(0)
    code = 1
    text = f"snakepen: the worker's loop ends: {type(error).__name__}: {error}"
    if isinstance(error, _wire.ProtocolError):
        code, text = PROTOCOL_EXIT, f"snakepen: protocol error: {error}"
    elif isinstance(error, OSError):
        code, text = PROTOCOL_EXIT, f"snakepen: the port's descriptor is gone, did a handler close it? {error}"
    _explain(text)
    os._exit(code)


def _leave(server: Server, connection: Connection, page: StatusPage, code: Any) -> NoReturn:
    """As the interpreter would, without tearing it down."""
    page.exiting()
    status = 0
    try:
        if isinstance(code, int):
            status = code & 0xFF
        elif code is not None:
            status = 1
            print(code, file=sys.stderr)
        if server.event_loop is not None:
            server.event_loop.close()
        threading: Any = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        _startup.flush_output()
        connection.flush()
        os._exit(status)


def _explain(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except Exception:  # whatever the user's code has put there
        pass
    _startup.flush_output()


def main_fresh() -> NoReturn:
    """A worker in an interpreter of its own, started by the launcher."""
    from . import _fresh

    run(_fresh.receive(), fresh=True)
