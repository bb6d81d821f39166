"""Handlers that change the process that they run in."""

import os
import signal
import subprocess
import sys
import threading
import time

import snakepen


@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def directory() -> str:
    return os.getcwd()


@snakepen.handler
def move_and_remove(to: str, removed: str) -> None:
    os.chdir(to)
    os.rmdir(removed)


@snakepen.handler
def change_directory() -> str:
    os.chdir("/")
    return os.getcwd()


@snakepen.handler
def start_threads(count: int) -> int:
    """Threads that never end, some of them not daemons."""

    def idle() -> None:
        while True:
            time.sleep(1000)

    for number in range(count):
        threading.Thread(target=idle, daemon=number % 2 == 0).start()
    return threading.active_count()


@snakepen.handler
def install_signal_handlers() -> None:
    """As a web server or a library would that was not written for a worker."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


@snakepen.handler
def raise_in_signal_handler() -> None:
    """A handler that raises, and a timer that fires soon after this call."""

    def fire(*_: object) -> None:
        raise RuntimeError("an alarm")

    signal.signal(signal.SIGALRM, fire)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


@snakepen.handler
def lower_limits() -> None:
    sys.setrecursionlimit(200)
    os.nice(5)
    os.umask(0o077)


@snakepen.handler
def forever(started: str) -> None:
    with open(started, "w"):
        pass
    while True:
        time.sleep(1000)


@snakepen.handler
def start_late_leaver(told: str, leave: str) -> int:
    """A process that will leave the worker's group and session, once it is told to."""
    script = (
        f"import os, time\nopen({told!r}, 'w').close()\n"
        f"while not os.path.exists({leave!r}): time.sleep(0.001)\n"
        "os.setsid()\ntime.sleep(1000)\n"
    )
    return subprocess.Popen([sys.executable, "-c", script]).pid
