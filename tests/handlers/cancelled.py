"""Handlers that are cancelled, and take it in different ways."""

import asyncio
import ctypes
import itertools
import logging
import os
import signal
import threading
import time

import snakepen

_lock = threading.Lock()
_condition = threading.Condition()
_log = logging.getLogger("cancelled")
_log.addHandler(logging.NullHandler())


def _tell(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w") as file:
        file.write(text)
    os.rename(draft, path)


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def echo(value: int) -> int:
    with _lock, _condition:
        _log.error("echo %s", value)
    return value


@snakepen.handler
def tidy(started: str, ended: str) -> None:
    """Says how it ended, whatever happens."""
    error = "nothing"
    try:
        _tell(started, str(os.getpid()))
        time.sleep(1000)
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        _tell(ended, f"{error} {snakepen.current().cancelled}")


@snakepen.handler
async def tidy_async(started: str, ended: str) -> None:
    try:
        _tell(started, str(os.getpid()))
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        _tell(ended, f"CancelledError {snakepen.current().cancelled}")
        raise


@snakepen.handler
def stubborn(started: str) -> None:
    _tell(started, str(os.getpid()))
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


@snakepen.handler
def in_c(started: str) -> None:
    """Holds the GIL, and looks at nothing."""
    libc = ctypes.PyDLL(None)
    _tell(started, str(os.getpid()))
    # A mutex that is never free: no signal ends the wait for it.
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


@snakepen.handler
def tight(started: str) -> None:
    """Holds the GIL in a loop of C code that never ends."""
    _tell(started, str(os.getpid()))
    sum(itertools.repeat(0))


@snakepen.handler
def in_c_beside_threads(started: str, ended: str) -> None:
    """Holds the GIL in a wait that any signal ends; there are other threads that could take the signal."""
    for _ in range(8):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    libc = ctypes.PyDLL(None)
    sleep, creat, path = libc.sleep, libc.creat, ended.encode()
    _tell(started, str(os.getpid()))
    sleep(1000)
    creat(path, 0o600)  # whoever takes the GIL anew looks at signals


@snakepen.handler
def deaf(started: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    _tell(started, str(os.getpid()))
    while True:
        time.sleep(1)


@snakepen.handler
def shielded(started: str, half: str, done: str) -> None:
    with snakepen.shield():
        _tell(started, str(os.getpid()))
        while not snakepen.current().cancelled:
            time.sleep(0.001)
        _tell(half, "still here")
    _tell(done, "this is never reached")


@snakepen.handler
def churn() -> None:
    """Tight loops over what an exception at the wrong moment would leave locked."""
    while True:
        with _lock:
            pass
        with _condition:
            _condition.notify_all()
        _log.error("churning")


@snakepen.handler
def remaining() -> float | None:
    return snakepen.current().remaining()
