"""Large buffers: they lie in memory that Rust and the worker share, and their frames say where.

Rust makes and writes one segment, this side another. Neither writes to what the other still reads: a frame's serial
comes back through the status page. What a handler keeps of its arguments stays as it is: that segment is given up, and
Rust makes a new one. While many are kept, Rust isn't told of the last, and sends what comes then through the socket: a
mapping takes a descriptor, and a small array may keep a large segment.
"""

from __future__ import annotations

import os
from _socket import (
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
)
from _thread import allocate_lock
from mmap import ACCESS_READ, mmap
from struct import Struct
from sys import getrefcount
from weakref import ref

from ._wire import PLACE_UNIT, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._status import StatusPage
    from ._wire import Frame, Place

_LEAST = 1 << 20

_KEPT = 64
"""So many segments may be kept, if they are as small as that in all:"""
_KEPT_BYTES = 64 << 20
_KEPT_LARGE = 8
"""And so many of any size."""

_FD = Struct("i")
_GENERATION = Struct("<I")


class Held:
    """What a frame's arguments lie in, until its request has ended."""

    __slots__ = ("_lane", "_mapping", "_serial")

    def __init__(self, lane: Lane, mapping: mmap, serial: int) -> None:
        self._lane: Lane | None = lane
        self._mapping: mmap | None = mapping
        self._serial = serial

    def release(self) -> None:
        """The request has ended, and whatever views are left are its user's. May be said twice."""
        lane, mapping = self._lane, self._mapping
        self._lane = self._mapping = None
        if lane is not None and mapping is not None:
            lane.release(mapping, self._serial)

    __del__ = release  # of one that was cancelled before it began


class Lane:
    """Both ways of large buffers, from Python's side."""

    def __init__(self, fd: int, page: StatusPage, threshold: int | None, max_frame: int) -> None:
        self._socket = socket(AF_UNIX, SOCK_SEQPACKET, 0, fd)  # named, so that they aren't asked of the kernel
        self._page = page
        self._threshold = threshold
        self._limit = max_frame
        self._abandoned = False
        # From Rust
        self._theirs: mmap | None = None
        self._their_generation = 0
        self._forks = 0
        self._forks_before = 0
        self._kept: dict[ref[mmap], int] = {}
        """Segments that were given up and live on, and their sizes."""
        self._untold: list[int] = []
        """The serial of the arguments of which something was kept, while Rust is not told."""
        self._pid = os.getpid()
        self._references = 0
        self._references = self._count_references()
        # To Rust
        self._ours: mmap | None = None
        self._generation = 0
        self._serial = 0
        self._placing = allocate_lock()

    # Arguments

    def resolve(self, frame: Frame) -> None:
        """Puts views of the segment where a frame's large buffers are."""
        placed = frame.placed
        if placed is None:
            return
        if self._theirs is None or placed.generation != self._their_generation:
            self._theirs = None
            self._theirs = self._adopt(placed.generation)
            self._their_generation = placed.generation
        mapping = self._theirs
        self._forks_before = self._forks
        frame.held = Held(self, mapping, placed.serial)
        buffers = list(frame.buffers)
        with memoryview(mapping) as view:
            for index, offset, length in placed.places:
                if offset + length > len(view):
                    raise ProtocolError("segment", f"{length} bytes at {offset} don't lie in a segment of {len(view)}")
                buffers[index] = view[offset : offset + length]
        frame.buffers = buffers

    def _adopt(self, generation: int) -> mmap:
        said, rights, _, _ = self._socket.recvmsg(16, 64, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        fds: list[int] = []
        for level, kind, packed in rights:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds += (fd for (fd,) in _FD.iter_unpack(packed[: len(packed) // _FD.size * _FD.size]))
        try:
            if len(fds) != 1 or said != _GENERATION.pack(generation):
                raise ProtocolError(
                    "segment", f"segment {generation} didn't come: {len(fds)} descriptors with {said!r}"
                )
            mapping = mmap(fds[0], 0, access=ACCESS_READ)
        finally:
            for fd in fds:
                os.close(fd)
        return mapping

    def release(self, mapping: mmap, serial: int) -> None:
        if self._abandoned:
            return
        # To close it would tell as well whether a view refers to it; to map it anew takes longer than to copy it.
        kept = True
        try:
            mapping.resize(0)
        except (TypeError, ValueError):  # a read-only one can't be resized, and says so where no view refers to it
            kept = False
        except (BufferError, AttributeError, SystemError):  # one does, or this build of Python can't tell
            pass
        # What reads its memory need not be a view: `numpy.ndarray(shape, dtype, view)` refers to what is behind that.
        references = getrefcount(mapping) + (mapping is not self._theirs)
        if not self._references or references < self._references:  # a tracer had some of them, while it was at work
            self._references = references
        if mapping.closed:  # by the user's code, that has found it behind its view
            self._theirs = None
            kept = True
        if references > self._references or self._forks != self._forks_before:  # or a process that was forked has it
            kept = True
        if not kept:
            self._page.released(serial, False)
            return
        if mapping is self._theirs:
            self._theirs = None
        self._kept[ref(mapping, self._gone)] = 0 if mapping.closed else len(mapping)
        self._untold.append(serial)
        self._tell_of_kept()

    def _count_references(self) -> int:
        """Those that a mapping has when nothing of the user's refers to it, where `release` counts them."""
        self._theirs = mmap(-1, 1, access=ACCESS_READ)
        Held(self, self._theirs, 0).release()
        self._theirs = None
        return self._references

    def _gone(self, mapping: ref[mmap]) -> None:
        self._kept.pop(mapping, None)
        self._tell_of_kept()

    def _tell_of_kept(self) -> None:
        """Rust makes a new segment as soon as it is told that something of the last one was kept."""
        kept = self._kept
        if os.getpid() != self._pid:  # other hooks of a process that was forked come before ours
            return
        if len(kept) > _KEPT_LARGE and (len(kept) > _KEPT or sum(kept.copy().values()) > _KEPT_BYTES):
            return
        try:
            serial = self._untold.pop()
        except IndexError:
            return
        self._page.released(serial, True)

    def forked(self) -> None:
        self._forks += 1

    # Results

    def place(self, buffers: Sequence[memoryview]) -> tuple[int, int, dict[int, Place]] | None:
        """Copies large buffers into the segment; its generation, the serial, the places. None: all are to be sent."""
        threshold = self._threshold
        if threshold is None:
            return None
        places: dict[int, Place] = {}
        end = 0
        for index, buffer in enumerate(buffers):
            length = len(buffer)
            if length >= threshold:
                places[index] = (index, end, length)
                end += length + -length % PLACE_UNIT
        if end < 16 + 4 * len(buffers) or not self._placing.acquire(False):
            return None
        try:
            # Rust still copies out what it was sent last, or is about to.
            if self._page.copied() != self._serial:
                return None
            ours = self._room_for(end)
            for index, offset, length in places.values():
                ours[offset : offset + length] = buffers[index]
            self._serial += 1
            return self._generation, self._serial, places
        except OSError:  # there is no such memory: the socket will do
            self._ours = None
            return None
        except AttributeError:  # this Python was built for a system without memfd_create
            self._threshold = None
            return None
        finally:
            self._placing.release()

    def _room_for(self, size: int) -> mmap:
        if self._ours is not None and len(self._ours) >= size:
            return self._ours
        from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, fcntl

        self._ours = None
        step = max(4096, 1 << (size.bit_length() - 3))
        size = max(_LEAST, size + -size % step)
        fd = os.memfd_create("snakepen-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(fd, 0, size)  # to find no memory later would be a SIGBUS
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
            ours = mmap(fd, size)
            generation = (self._generation + 1) % (1 << 32)
            rights = [(SOL_SOCKET, SCM_RIGHTS, _FD.pack(fd))]
            self._socket.sendmsg([_GENERATION.pack(generation)], rights, MSG_DONTWAIT | MSG_NOSIGNAL)
        finally:
            os.close(fd)
        self._generation = generation
        self._ours = ours
        return ours

    def close(self) -> None:
        """In a process that a handler has forked."""
        self._abandoned = True
        self._threshold = None
        self._ours = self._theirs = None  # what refers to them keeps them
        self._socket.close()
