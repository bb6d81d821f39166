"""What only Linux has."""

from __future__ import annotations

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_GET_SECCOMP = 21
_SIGKILL = 9
_SYS_PIDFD_OPEN = 434  # the same on every architecture

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl  # looked up here, once, and not in every worker
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong)


def die_with_parent(parent: int) -> None:
    """This process is killed when the thread that started it ends; it exits if that is past already."""
    if _prctl(_PR_SET_PDEATHSIG, _SIGKILL) != 0:
        raise _failure("prctl")
    if os.getppid() != parent:
        os._exit(1)


def pidfd_open(pid: int) -> int:
    """A non-inheritable descriptor of a process."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    # Interpreters that were built against old kernel headers, such as conda's, lack it.
    fd: int = _libc.syscall(ctypes.c_long(_SYS_PIDFD_OPEN), ctypes.c_long(pid), ctypes.c_long(0))
    if fd < 0:
        raise _failure("pidfd_open")
    return fd


def give_way() -> None:
    """This thread, and what it starts from here on, puts nobody aside when it is woken.

    A host that has given one worker a request goes on to the next answer, and isn't put aside for that worker at once.
    The share of the processors is what it was. A policy other than the default stays.
    """
    if _prctl(_PR_GET_SECCOMP, 0) != 0:  # some sandboxes kill who asks for a policy
        return
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError):  # a C library without it, a sandbox that refuses it
        pass


def line_buffer_c_output() -> None:
    """C's own stdout: a pipe would make it wait for kilobytes, and os._exit() lose them."""
    line_buffered = 1  # _IOLBF, in glibc and in musl
    stdout = ctypes.c_void_p.in_dll(_libc, "stdout")
    _libc.setvbuf(stdout, None, ctypes.c_int(line_buffered), ctypes.c_size_t(0))


def flush_c_output() -> None:
    _libc.fflush(None)


def end_when_closed(fd: int, wanted: bool) -> None:
    """While user code runs, and nobody looks at this socket: its closing at the other end, which is the host's death,
    ends this process, by SIGIO's default action. Nothing else may arrive there meanwhile."""
    from _signal import SIG_DFL, SIGIO, signal  # pyright: ignore[reportMissingImports]
    from fcntl import F_GETFL, F_SETFL, F_SETOWN, fcntl

    flags = fcntl(fd, F_GETFL)
    if wanted:
        signal(SIGIO, SIG_DFL)
        fcntl(fd, F_SETOWN, os.getpid())
        fcntl(fd, F_SETFL, flags | os.O_ASYNC)
    else:
        fcntl(fd, F_SETFL, flags & ~os.O_ASYNC)


def _failure(call: str) -> OSError:
    errno = ctypes.get_errno()
    return OSError(errno, f"{call}: {os.strerror(errno)}")


def listed_descriptors() -> set[int]:
    """The numbers of this process's descriptors, with that of the one that read them, which is closed again."""
    return {int(name) for name in os.listdir("/proc/self/fd")}


def open_descriptors() -> set[int]:
    """The numbers of this process's descriptors."""
    return {fd for fd in listed_descriptors() if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def other_threads() -> list[str]:
    """The names of this process's threads besides the main one, Python's or not."""
    names: list[str] = []
    for task in os.listdir("/proc/self/task"):
        if int(task) == os.getpid():
            continue
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="backslashreplace") as file:
                names.append(file.read().rstrip("\n"))
        except OSError:  # it has ended meanwhile
            continue
    return names


def name_process(name: str) -> None:
    """What `top` and `ps -o comm` show of it; the kernel keeps 15 bytes."""
    try:
        fd = os.open("/proc/self/comm", os.O_WRONLY)
        try:
            os.write(fd, name.encode())
        finally:
            os.close(fd)
    except OSError:  # it is of no importance
        pass
