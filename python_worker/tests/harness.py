"""The Rust side, as a test drives it: real launchers and workers over real sockets."""

from __future__ import annotations

import array
import contextlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakepen import _wire
from snakepen._status import CANCELLED
from snakepen._wire import Decoder, Frame

PACKAGE = Path(__file__).parents[1]
BOOTSTRAP = (PACKAGE / "bootstrap.py").read_text()
MAX_FRAME = 16 << 20
PATIENCE = 15.0


def config(**changes: Any) -> dict[str, Any]:
    return {
        "pool": "demo",
        "handlers": None,
        "expose": {},
        "paths": [],
        "preload": [],
        "fresh": False,
        "max_frame": MAX_FRAME,
        "log_level": 20,
        **changes,
    }


def alive(pid: int) -> bool:
    """Whether the process exists and isn't a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_gone(pidfd: int) -> None:
    assert select.select([pidfd], [], [], PATIENCE)[0], "the process is still alive"


class Port:
    """A worker, from Rust's end."""

    def __init__(self) -> None:
        self.socket, self.far_socket = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        self.stdout, self.far_stdout = os.pipe2(os.O_CLOEXEC)
        self.stderr, self.far_stderr = os.pipe2(os.O_CLOEXEC)
        self.dump, self.far_dump = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.lane, self.far_lane = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.status = os.memfd_create("status")
        os.ftruncate(self.status, 8192)
        self._map = mmap.mmap(self.status, 8192)
        self.page = memoryview(self._map).cast("Q")
        self.decoder = Decoder(MAX_FRAME, _wire.TO_RUST)
        self.pid = -1
        self.pidfd = -1
        self._last_id = 0

    def far_ends(self) -> list[int]:
        return [
            self.far_socket.fileno(),
            self.far_stdout,
            self.far_stderr,
            self.far_dump,
            self.status,
            self.far_lane.fileno(),
        ]

    def close_far_ends(self) -> None:
        self.far_socket.close()
        self.far_lane.close()
        for fd in (self.far_stdout, self.far_stderr, self.far_dump, self.status):
            os.close(fd)

    def close(self) -> None:
        self.socket.close()
        self.lane.close()
        self.page.release()
        self._map.close()
        for fd in (self.stdout, self.stderr, self.dump, self.pidfd):
            if fd >= 0:
                os.close(fd)

    def send(self, kind: int, id: int, arg: int = 0, name: str = "", payload: bytes = b"") -> None:
        self.socket.sendall(_wire.encode(kind, id, arg, name.encode(), payload))

    def receive(self) -> Frame:
        """The next frame; EOFError at the end."""
        while (frame := self.decoder.next()) is None:
            count = self.socket.recv_into(self.decoder.space())
            if not count:
                self.decoder.finish()
                raise EOFError
            self.decoder.received(count)
        return frame

    def at_end(self) -> bool:
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def start_call(self, handler: str, *arguments: Any, deadline: int = 0, **named: Any) -> int:
        self._last_id += 1
        text = json.dumps(named or list(arguments), ensure_ascii=False)
        payload = text.encode() if _is_sound(text) else json.dumps(named or list(arguments)).encode()
        self.send(_wire.CALL, self._last_id, deadline, handler, payload)
        return self._last_id

    def call(self, handler: str, *arguments: Any, **named: Any) -> Any:
        """The result, or an `Answer` for an error."""
        id = self.start_call(handler, *arguments, **named)
        frame = self.receive()
        assert frame.id == id, (frame.kind, frame.id, frame.name, frame.json)
        return value(frame)

    def ping(self, token: int) -> None:
        self.send(_wire.PING, token)
        frame = self.receive()
        assert (frame.kind, frame.id) == (_wire.PONG, token)

    def cancel(self, id: int) -> None:
        """Asks once."""
        self.page[CANCELLED] = id
        signal.pidfd_send_signal(self.pidfd, signal.SIGURG)

    def answer(self) -> Frame:
        """The next frame that isn't a line of the log."""
        while (frame := self.receive()).kind == _wire.LOG:
            pass
        return frame

    def answer_to_cancel(self, id: int) -> Frame:
        """Asks as Rust does, every 20 ms, until there is an answer."""
        end = time.monotonic() + PATIENCE
        due = 0.0
        while True:
            now = time.monotonic()
            assert now < end, "a cancel isn't answered"
            if now >= due:
                due = now + 0.02
                self.cancel(id)
            frame = self.decoder.next()
            if frame is None:
                if not select.select([self.socket], [], [], due - now)[0]:
                    continue
                frame = self.receive()
            if frame.kind != _wire.LOG:
                assert frame.id == id, (frame.kind, frame.id, frame.name, frame.json)
                return frame

    def stack(self, end: bytes = b"\x17") -> str:
        """What comes through the dump pipe up to the end."""
        text = b""
        while not text.endswith(end):
            assert select.select([self.dump], [], [], PATIENCE)[0], f"only {text!r}"
            text += os.read(self.dump, 1)
        return text.decode()

    def leave(self) -> None:
        self.send(_wire.EXIT, 0)
        wait_gone(self.pidfd)

    def text(self, fd: int) -> str:
        """All that the worker and its children wrote; they have ended."""
        parts = []
        while select.select([fd], [], [], PATIENCE)[0]:
            part = os.read(fd, 65536)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)
        raise AssertionError("somebody holds the pipe")

    def read_line(self, fd: int) -> str:
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([fd], [], [], PATIENCE)[0], f"only {line!r}"
            line += os.read(fd, 1)
        return line.decode()

    def descriptors(self) -> dict[int, str]:
        return descriptors(self.pid)


def descriptors(pid: int) -> dict[int, str]:
    directory = Path(f"/proc/{pid}/fd")
    return {int(entry.name): os.readlink(entry) for entry in directory.iterdir()}


class Answer:
    """An ERROR frame."""

    def __init__(self, frame: Frame) -> None:
        self.status = frame.name
        self.flags = frame.flags
        self.json: dict[str, Any] = json.loads(frame.json)

    def __repr__(self) -> str:
        return f"<{self.status} {self.json}>"


def value(frame: Frame) -> Any:
    if frame.kind == _wire.ERROR:
        return Answer(frame)
    assert frame.kind == _wire.RESULT, (frame.kind, frame.name, frame.json)
    return json.loads(frame.json)


class Launcher:
    def __init__(
        self,
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        inherits: bool = False,
        before: Callable[[], object] | None = None,
    ) -> None:
        def begin() -> None:
            os.setpgid(0, 0)
            _ignore_signals()
            if before is not None:
                before()

        self.control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(PATIENCE)
        self.process = subprocess.Popen(
            [python, "-I", "-S", "-c", BOOTSTRAP, str(PACKAGE), "launcher"],
            stdin=far.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            close_fds=not inherits,
            preexec_fn=begin,
        )
        far.close()
        self.ports: list[Port] = []
        self._token = 0

    def say(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.control.sendmsg([json.dumps(message).encode()], rights)

    def hear(self) -> dict[str, Any]:
        data, rights, flags, _ = self.control.recvmsg(65536, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise EOFError(self.errors())
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        message = json.loads(data)
        for _, _, packed in rights:
            (message["fd"],) = array.array("i", packed)
        return message

    def configure(self, **changes: Any) -> dict[str, Any]:
        self.say({"op": "configure", "version": 1, "config": config(**changes)})
        return self.hear()

    def spawn(self, slot: int = 0) -> Port:
        """A worker process; its first frame hasn't been read."""
        port = Port()
        self.ports.append(port)
        self._token += 1
        spawn = {"op": "spawn", "token": self._token, "slot": slot, "epoch": 1, "worker": f"demo/worker/{slot}"}
        self.say(spawn, port.far_ends())
        answer = self.hear()
        port.close_far_ends()
        assert answer["op"] == "spawned" and answer["token"] == self._token, answer
        port.pid = answer["pid"]
        port.pidfd = answer["fd"]
        return port

    def worker(self, slot: int = 0) -> Port:
        """A worker that is ready."""
        port = self.spawn(slot)
        frame = port.receive()
        assert frame.kind == _wire.READY, (frame.kind, frame.name, frame.json)
        return port

    def leave(self) -> int:
        self.say({"op": "exit"})
        return self.process.wait(PATIENCE)

    def errors(self) -> str:
        assert self.process.stderr is not None
        self.process.wait(PATIENCE)
        return self.process.stderr.read().decode()

    def close(self) -> None:
        self.control.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            for port in self.ports:
                try:
                    if port.pidfd >= 0:
                        wait_gone(port.pidfd)
                finally:
                    port.close()


def _is_sound(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def until(condition: Any, what: str) -> None:
    """Polls for what has no descriptor to wait for, such as /proc."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)
