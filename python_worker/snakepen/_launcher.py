"""The launcher: the one small process of a pool that starts its workers and outlives none of them."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from select import POLLIN, poll

from . import _cgroup, _errors, _fork, _linux, _startup, _worker
from ._config import Birth, Config, Descriptors
from ._control import BadMessage, Control, close_all
from ._request import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal  # without its enums, which take four milliseconds to build

VERSION = 1


def main() -> NoReturn:
    try:
        birth = _start().run()
    except BaseException as error:
        if isinstance(error, BadMessage):
            print(f"snakepen launcher: {error}", file=sys.stderr)
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        _startup.flush_output()
        os._exit(1)
    # A forked worker goes on from here, clear of the launcher's frames.
    _worker.run(birth)


def _start() -> Launcher:
    control = Control(_take_stdin())
    _startup.line_buffer_output()
    # What the host has leaked into this process isn't ours to pass on.
    _fork.close_all_but({0, 1, 2, control.fileno()})
    gc.disable()
    return Launcher(control)


def _take_stdin() -> int:
    """Moves the control socket away from where user code would read it."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    fd = fcntl(0, F_DUPFD_CLOEXEC, 3)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return fd


class Launcher:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._pid = os.getpid()
        self._workers: set[int] = set()
        self._config: Config
        self._cgroups: _cgroup.Cgroups | None = None
        self._preloaded: set[int] = set()
        self._wake = -1
        self._wake_end = -1

    def run(self) -> Birth:
        """Serves Rust until one of the two ends. Returns in the workers that it forks."""
        try:
            self._configure()
            poller = poll()
            poller.register(self._control.fileno(), POLLIN)
            poller.register(self._wake, POLLIN)
            while True:
                ready = {fd for fd, _ in poller.poll()}
                if self._wake in ready:
                    self._drain_wake()
                    self._reap()
                if self._control.fileno() in ready:
                    birth = self._obey()
                    if birth is not None:
                        return birth
        except (BrokenPipeError, ConnectionResetError):
            self._end()
        except BadMessage:
            self._kill_workers()
            raise

    # Start-up

    def _configure(self) -> None:
        received = self._control.receive()
        if received is None:
            self._end()
        message, fds = received
        close_all(fds)
        if message.get("op") != "configure" or message.get("version") != VERSION:
            raise BadMessage(f"expected configure of version {VERSION}, got {message!r:.200}")
        try:
            config = self._config = Config(message["config"])
            self._cgroups = config.cgroups
        except (KeyError, TypeError) as error:
            self._fail("configure", None, error)
        _startup.replace_main()
        before = _linux.open_descriptors()
        _linux.end_when_closed(self._control.fileno(), True)
        if self._control.is_closed():
            self._end()
        try:
            _startup.set_up_imports(config)
            if not config.fresh:
                _startup.preload(config.preload)
        except _startup.StartupError as failure:
            self._fail(failure.stage, failure.module, failure.error)
        self._preloaded = _linux.open_descriptors() - before
        threads = _linux.other_threads()
        config.fresh = config.fresh or bool(threads)
        # After user code, which may have installed handlers of its own.
        _linux.end_when_closed(self._control.fileno(), False)
        self._watch_children()
        self._control.send(
            {
                "op": "ready",
                "version": VERSION,
                "python": sys.version.split()[0],
                "executable": _errors.sound(sys.executable),
                "fresh": config.fresh,
                "threads": threads,
            }
        )

    def _fail(self, stage: str, module: str | None, error: BaseException) -> NoReturn:
        text = _errors.describe(error)
        self._control.send({"op": "failed", "stage": stage, "module": module, "error": text})
        _startup.flush_output()
        os._exit(1)

    def _watch_children(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._wake, self._wake_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        os.write(self._wake_end, b"\0")  # for what has ended before

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake, 512):
                pass
        except BlockingIOError:
            pass

    # Rust's wishes

    def _obey(self) -> Birth | None:
        received = self._control.receive()
        if received is None:
            self._end()
        message, fds = received
        operation = message.get("op")
        try:
            if operation == "spawn":
                return self._spawn(message, fds)
            if operation == "ping":
                self._control.send({"op": "pong", "token": message["token"]})
            elif operation == "exit":
                self._leave()
            else:
                raise BadMessage(f"unknown operation: {message!r:.200}")
        except (KeyError, TypeError) as error:
            raise BadMessage(f"{error!r} in {message!r:.200}") from None
        finally:
            if os.getpid() == self._pid:
                close_all(fds)
        return None

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> Birth | None:
        token: int = message["token"]
        pid = -1
        cgroup: str | None = None
        try:
            if len(fds) != 6:
                raise ValueError(f"{len(fds)} descriptors came with the spawn, not 6")
            place = Place(self._config.pool, message["worker"], message["slot"], message["epoch"])
            if self._cgroups is not None:
                cgroup = self._cgroups.make(place.slot, place.epoch)
            birth = Birth(self._config, place, Descriptors(*fds), cgroup)
            _startup.flush_output()
            if self._config.fresh:
                from . import _fresh

                pid = _fresh.spawn(birth)
            else:
                pid = self._fork(birth)
                if pid == 0:
                    return birth
            pidfd = _linux.pidfd_open(pid)
        except (OSError, ValueError, MemoryError) as error:
            if pid > 0:
                _kill_group(pid)
                os.waitpid(pid, 0)
            if cgroup is not None:
                _cgroup.discard(cgroup)
            self._control.send({"op": "spawn_failed", "token": token, "message": f"{type(error).__name__}: {error}"})
            return None
        self._workers.add(pid)
        try:
            self._control.send({"op": "spawned", "token": token, "pid": pid}, (pidfd,))
        finally:
            os.close(pidfd)
        return None

    def _fork(self, birth: Birth) -> int:
        gc.freeze()
        # Until the child has its own dispositions: a TERM would be ignored there, and CHLD would wake us.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._control.detach()
                self._begin_worker(birth)
                return 0
        finally:
            if os.getpid() == self._pid:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            os.setpgid(pid, pid)  # the child does the same: whoever comes first
        except OSError:
            pass
        return pid

    def _begin_worker(self, birth: Birth) -> None:
        try:
            # First of all: what it takes before is charged to the launcher's cgroup, and stays so.
            if birth.cgroup is not None:
                _cgroup.enter(birth.cgroup)
            _fork.become_worker(self._pid, birth.descriptors, self._preloaded)
        except BaseException as error:
            # Never up from here: the launcher's ways of failing would kill the other workers.
            print(f"snakepen: the forked worker can't start: {error!r}", file=sys.stderr)
            os._exit(1)

    # Children's ends

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            known = pid in self._workers
            if known:
                # While its leader isn't reaped, the group's number can't become a stranger's.
                _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            if known:
                self._workers.discard(pid)
                exited = os.WIFEXITED(status)
                self._control.send(
                    {
                        "op": "exited",
                        "pid": pid,
                        "code": os.WEXITSTATUS(status) if exited else None,
                        "signal": None if exited else os.WTERMSIG(status),
                    }
                )

    def _kill_workers(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
        for pid in self._workers:
            os.waitpid(pid, 0)
        self._workers.clear()

    def _leave(self) -> NoReturn:
        self._kill_workers()
        if self._cgroups is not None:
            self._cgroups.leave()
        atexit._run_exitfuncs()
        _startup.flush_output()
        os._exit(0)

    def _end(self) -> NoReturn:
        """Rust is gone, in whatever way. So is this process's own group, with what preloaded modules started."""
        self._kill_workers()
        if self._cgroups is not None:
            self._cgroups.remove()
        if os.getpgrp() == self._pid:
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _nothing(_number: int, _frame: object) -> None:
    """Makes the signal reach the wake-up descriptor."""
