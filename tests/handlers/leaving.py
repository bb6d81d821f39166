"""Handlers that decide how their worker leaves."""

import atexit
import os
import signal
import subprocess
import time

import snakepen


def _note(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text + "\n")


@snakepen.handler
def at_exit(path: str, text: str, seconds: float = 0.0) -> int:
    def leave() -> None:
        time.sleep(seconds)
        _note(path, text)

    atexit.register(leave)
    return os.getpid()


@snakepen.handler
def hang_at_exit(path: str) -> int:
    """From now on only KILL ends this worker."""

    def hang() -> None:
        _note(path, "hangs")
        while True:
            time.sleep(1)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit.register(hang)
    return os.getpid()


@snakepen.handler
def start_process(new_session: bool = False) -> int:
    """Starts a process that outlives the call, and that holds the worker's output open."""
    return subprocess.Popen(["sleep", "300"], start_new_session=new_session).pid


@snakepen.handler
def note(path: str, text: str, seconds: float = 0.0) -> str:
    _note(path, text)
    time.sleep(seconds)
    return text
