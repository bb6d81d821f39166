"""What a forked worker drops, restores and reseeds of what it inherited from the launcher."""

from __future__ import annotations

import atexit
import os
import sys

from . import _linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from typing import Any

    from ._config import Descriptors
else:
    import _signal as signal  # without its enums, which take four milliseconds to build


def become_worker(launcher: int, descriptors: Descriptors, preloaded: Iterable[int]) -> None:
    """Called in the child with all signals blocked; leaves with none blocked, and with the collector still off."""
    os.setpgid(0, 0)
    _linux.die_with_parent(launcher)
    _take_descriptors(descriptors, preloaded)
    restore_signals()
    _drop_exit_handlers()
    _drop_event_loop()
    _reseed()


def _take_descriptors(own: Descriptors, preloaded: Iterable[int]) -> None:
    os.dup2(own.stdout, 1)
    os.dup2(own.stderr, 2)
    # Objects that a preloaded module has opened will close their numbers one day; were those free, it would be
    # somebody else's descriptor that they close, or write into. So their numbers stay taken, by nothing.
    kept = {0, 1, 2, own.port, own.dump, own.status, own.lane}
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in preloaded:
        if fd not in kept:
            os.dup2(nothing, fd, inheritable=False)
            kept.add(fd)
    close_all_but(kept)


def close_all_but(kept: Iterable[int]) -> None:
    # Not closerange: where the interpreter was built without close_range(2), that is a call per possible number.
    for fd in _linux.listed_descriptors().difference(kept):
        try:
            os.close(fd)
        except OSError:  # the one that read the list
            pass


def restore_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _drop_exit_handlers() -> None:
    """They belong to the launcher, which runs them when it ends; those of the standard library work per process."""
    atexit._clear()
    logging = _loaded("logging")
    if logging is not None:
        atexit.register(logging.shutdown)
    multiprocessing = _loaded("multiprocessing.util")
    if multiprocessing is not None:
        multiprocessing._finalizer_registry.clear()
        atexit.register(multiprocessing._exit_function)
    weakref = _loaded("weakref")
    if weakref is not None:
        finalize = weakref.finalize
        for info in finalize._registry.values():
            info.atexit = False
        finalize._dirty = True
        finalize._registered_with_atexit = False  # the next one made here registers anew


def _drop_event_loop() -> None:
    asyncio = _loaded("asyncio")
    if asyncio is not None:
        asyncio._set_running_loop(None)
        asyncio.set_event_loop(None)


def _reseed() -> None:
    for name in ("random", "numpy.random"):
        module = _loaded(name)
        if module is not None:
            module.seed()


def _loaded(name: str) -> Any:
    """The module if it has been imported; it is never imported for this."""
    return sys.modules.get(name)
