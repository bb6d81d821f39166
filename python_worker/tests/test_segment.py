"""What a handler keeps of its arguments is known, whatever it keeps, and how much of it there may be."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snakepen import _segment, _wire
from snakepen._segment import Held, Lane
from snakepen._status import RELEASED, StatusPage

numpy: Any = pytest.importorskip("numpy")

SIZE = 1 << 20


class Rust:
    """The other end, with one segment at a time."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        page = os.memfd_create("page")
        os.ftruncate(page, 8192)
        self.page = StatusPage(page)
        os.close(page)
        self.lane = Lane(theirs.detach(), self.page, 0, 1 << 30)
        self.generation = self.serial = 0

    def send(self, anew: bool, size: int = SIZE) -> tuple[memoryview, Held]:
        """A buffer as a handler gets it, in a new segment or in the one that is there."""
        if anew:
            fd = os.memfd_create("segment")
            os.ftruncate(fd, size)
            self.generation += 1
            socket.send_fds(self.socket, [self.generation.to_bytes(4, "little")], [fd])
            os.close(fd)
        self.serial += 1
        frame = _wire.Frame(_wire.CALL, 0, 1, 0, "h", "")
        frame.buffers = [memoryview(b"")]
        frame.placed = _wire.Placed(self.generation, self.serial, [(0, 0, size)])
        self.lane.resolve(frame)
        (view,), held = frame.buffers, frame.held
        assert held is not None
        frame.buffers, frame.held = (), None
        return view, held

    def is_kept(self) -> bool | None:
        """None, if nothing was said of the last one."""
        serial, kept = divmod(self.page._words[RELEASED], 2)
        return bool(kept) if serial == self.serial else None


@pytest.fixture
def rust() -> Iterator[Rust]:
    rust = Rust()
    yield rust
    rust.socket.close()
    rust.lane._socket.close()
    del rust.lane, rust.page  # pytest has `rust` still
    gc.collect()


def test_a_segment_is_used_again_as_long_as_nothing_is_kept(rust: Rust) -> None:
    for turn in range(3000):  # however the interpreter has adapted its code by then
        view, held = rust.send(anew=turn % 500 == 0)
        array = numpy.frombuffer(view)
        assert not array.any()
        del array, view
        held.release()
        assert rust.is_kept() is False


KEEP: list[Callable[[memoryview], Any]] = [
    lambda view: view,
    lambda view: view[:0],
    lambda view: numpy.frombuffer(view)[10:],
    lambda view: numpy.ndarray((2, 5), "f8", view),
    lambda view: numpy.ndarray((5,), "f8", view[80:160].cast("d")),
    lambda view: numpy.recarray((5,), "f8", view),
    lambda view: numpy.char.chararray((5,), 8, buffer=view),
    lambda view: view.obj,
]


@pytest.mark.parametrize("keep", KEEP)
def test_what_is_kept_is_seen(rust: Rust, keep: Callable[[memoryview], Any]) -> None:
    for turn in range(100):
        view, held = rust.send(anew=turn == 0)
        del view
        held.release()
        assert rust.is_kept() is False
    for _ in range(3):
        view, held = rust.send(anew=rust.is_kept() is True)
        kept = keep(view)
        del view
        held.release()
        assert rust.is_kept() is True
        del kept


def test_what_is_kept_of_a_segment_that_was_replaced_meanwhile_is_seen(rust: Rust) -> None:
    view, held = rust.send(anew=True)
    kept = numpy.ndarray((10,), "f8", view)
    del view
    serial = rust.serial
    _, other = rust.send(anew=True)
    held.release()
    assert rust.page._words[RELEASED] == serial << 1 | 1
    del kept, _
    other.release()
    assert rust.is_kept() is False


@pytest.mark.parametrize(("size", "most"), [(SIZE, _segment._KEPT), (32 * SIZE, _segment._KEPT_LARGE)])
def test_while_many_are_kept_rust_is_not_told(rust: Rust, size: int, most: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    kept: list[Any] = []
    for _ in range(most):
        view, held = rust.send(True, size)
        kept.append(view[:10])
        del view
        held.release()
        assert rust.is_kept() is True
    view, held = rust.send(True, size)
    kept.append(view[:10])
    del view
    held.release()
    assert rust.is_kept() is None
    assert len(os.listdir("/proc/self/fd")) == before + most + 1
    del kept[0]  # and as soon as there are fewer, it is
    assert rust.is_kept() is True
    kept.clear()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    _, held = rust.send(anew=True)
    del _
    held.release()
    assert rust.is_kept() is False


def test_a_process_that_was_forked_tells_nothing_and_holds_nothing(rust: Rust) -> None:
    kept: list[Any] = []
    for _ in range(_segment._KEPT + 1):
        view, held = rust.send(anew=True)
        kept.append(view)
        del view
        held.release()
    view, held = rust.send(anew=True)
    pid = os.fork()
    if pid == 0:
        rust.lane.close()
        kept.clear()
        held.release()
        del view
        with open("/proc/self/maps") as maps:
            os._exit(sum("segment" in line for line in maps))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    rust.serial -= 1
    assert rust.is_kept() is None
