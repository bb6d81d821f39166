"""Messages between Rust and the launcher: a JSON object each, some with descriptors."""

from __future__ import annotations

import os

# `socket` costs as much as the rest of the launcher: it builds enums of all constants.
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
)
from struct import calcsize, pack, unpack

from . import _errors, _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 64 * 1024
_MAX_FDS = 16


class BadMessage(Exception):
    pass


class Control:
    """The launcher's end of the control socket."""

    def __init__(self, fd: int) -> None:
        try:
            self._socket = socket(AF_UNIX, SOCK_SEQPACKET, 0, fd)
            self._socket.getpeername()
        except OSError as error:
            raise BadMessage(f"descriptor {fd} isn't the launcher's control socket: {error}") from None
        self._socket.settimeout(None)

    def fileno(self) -> int:
        return self._socket.fileno()

    def is_closed(self) -> bool:
        """Whether the other end is, while it owes no message."""
        from select import POLLHUP, poll

        poller = poll()
        poller.register(self.fileno(), 0)
        return any(event & POLLHUP for _, event in poller.poll(0))

    def detach(self) -> None:
        """Lets go of the descriptor without closing it."""
        self._socket.detach()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        data = _errors.encode_within(message, MAX_BYTES)
        rights = [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(fds)}i", *fds))] if fds else []
        self._socket.sendmsg([data], rights, MSG_NOSIGNAL)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors, none of them inheritable; None at the end."""
        size = calcsize("i")
        data, rights, flags, _ = self._socket.recvmsg(MAX_BYTES, CMSG_SPACE(_MAX_FDS * size), MSG_CMSG_CLOEXEC)
        fds: list[int] = []
        for level, kind, packed in rights:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds += unpack(f"{len(packed) // size}i", packed[: len(packed) // size * size])
        if not data and not fds:
            return None
        try:
            # MSG_CTRUNC isn't looked at: descriptors get lost where this process has no room for them, and what
            # they came with fails for want of them.
            if flags & MSG_TRUNC:
                raise BadMessage(f"a message of over {MAX_BYTES} bytes")
            message = _json.loads(data)
            if not isinstance(message, dict):
                raise BadMessage(f"a message that isn't an object: {data!r:.200}")
        except (ValueError, RecursionError) as error:
            close_all(fds)
            raise BadMessage(f"a message that isn't JSON ({error}): {data!r:.200}") from None
        except BadMessage:
            close_all(fds)
            raise
        return message, fds


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
