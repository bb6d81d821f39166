"""Handlers that write without end to the pipe that their Python stack goes to."""

import fcntl
import os
import stat
import subprocess
import time

import snakepen


def _dump_pipe() -> int:
    """The one pipe that does not block."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
                return fd
        except OSError:  # that of the directory itself
            pass
    raise LookupError("no such pipe")


def _flood() -> None:
    # Opened anew, so that these wait where it is full.
    path = f"/proc/{os.getpid()}/fd/{_dump_pipe()}"
    with open(path, "wb") as pipe:
        for _ in range(3):
            subprocess.Popen(["cat", "/dev/zero"], stdout=pipe)


@snakepen.handler
def flood_and_obey() -> None:
    _flood()
    time.sleep(1000)


@snakepen.handler
def flood_and_stay() -> None:
    _flood()
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


@snakepen.handler
def pid() -> int:
    return os.getpid()
