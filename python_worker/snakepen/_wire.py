"""Wire protocol, version 1: frames to bytes and back. No I/O.

    0  u32 length   bytes of the body after the header
    4  u8  kind
    5  u8  flags
    6  u16 name     bytes of the name at the start of the body
    8  u64 id
    16 u64 arg

The body is the name, then JSON. With the flag BUFFERS it is the name, u32 count, u32 bytes of JSON,
count times u32 bytes of a buffer, JSON, and the buffers, each at a multiple of 8 from the body's start.
With SEGMENT, u64 serial, u32 generation and u32 0 follow the bytes of JSON, and each buffer's u32 bytes is followed by
u32 place: 0 if it is in the body, else it is at (place - 1) * 64 in the segment of that generation.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from ._segment import Held

    Place: TypeAlias = tuple[int, int, int]
    """Which buffer of its frame, its offset, its length."""

VERSION = 1

# Rust to Python
CALL = 1
CANCEL = 2
PING = 3
EXIT = 4
REPLY = 5
INIT = 6
CREDIT = 7
INPUT = 8
# Python to Rust
READY = 65
FAILED = 66
RESULT = 67
ERROR = 68
PONG = 69
LOG = 70
ASK = 71
ITEM = 72
PROGRESS = 73
WANT = 74

TO_PYTHON = frozenset((CALL, CANCEL, PING, EXIT, REPLY, INIT, CREDIT, INPUT))
TO_RUST = frozenset((READY, FAILED, RESULT, ERROR, PONG, LOG, ASK, ITEM, PROGRESS, WANT))

BUFFERS = 0x01
RECYCLE = 0x02
STREAM = 0x04
SEGMENT = 0x08
"""Some of the buffers lie in a shared segment; only with BUFFERS."""
WATCH = 0x10
_RESERVED = 0xFF & ~(BUFFERS | RECYCLE | STREAM | SEGMENT | WATCH)

PLACE_UNIT = 64
"""A place in a segment is a multiple of so many bytes, so that four bytes name it."""

HEADER = Struct("<IBBHQQ")
_TABLE = Struct("<II")
_SEGMENT = Struct("<QII")
_LENGTH = Struct("<I")
HEADER_BYTES = HEADER.size

MAX_BUFFERS = 65_535

_SPACE = 64 * 1024
_WORTH_A_PIECE = 16 * 1024
_KEPT = 8 * 1024 * 1024


class ProtocolError(Exception):
    """The other side broke the rules; `key` names the rule. What follows in the stream means nothing."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Placed:
    """Which buffers of a frame lie in a segment, and where."""

    __slots__ = ("generation", "places", "serial")

    def __init__(self, generation: int, serial: int, places: list[Place]) -> None:
        self.generation = generation
        self.serial = serial
        self.places = places


class Frame:
    __slots__ = ("arg", "buffers", "flags", "held", "id", "json", "kind", "name", "placed")

    held: Held | None
    """What its buffers lie in, if that isn't its own."""

    def __init__(
        self,
        kind: int,
        flags: int,
        id: int,
        arg: int,
        name: str,
        json: str | bytes,
        buffers: Sequence[memoryview] = (),
        placed: Placed | None = None,
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.id = id
        self.arg = arg
        self.name = name
        self.json = json  # bytes only where it isn't UTF-8, which its reader reports
        self.buffers = buffers
        self.placed = placed
        self.held = None


def encode(kind: int, id: int, arg: int = 0, name: bytes = b"", json: bytes = b"", flags: int = 0) -> bytes:
    """A frame in one piece."""
    return HEADER.pack(len(name) + len(json), kind, flags, len(name), id, arg) + name + json


def encode_head(kind: int, id: int, arg: int, name: bytes, json_bytes: int, flags: int = 0) -> bytes:
    """A frame without its JSON, which the caller sends right after it: spares a copy of large ones."""
    return HEADER.pack(len(name) + json_bytes, kind, flags, len(name), id, arg) + name


def encode_with_buffers(
    kind: int, id: int, arg: int, name: bytes, json: bytes, buffers: Sequence[bytes | memoryview], flags: int = 0
) -> bytes:
    body = bytearray(name)
    body += _TABLE.pack(len(buffers), len(json))
    for buffer in buffers:
        body += _LENGTH.pack(len(buffer))
    body += json
    for buffer in buffers:
        body += bytes(-len(body) % 8) + buffer
    return HEADER.pack(len(body), kind, flags | BUFFERS, len(name), id, arg) + body


def encode_pieces(
    kind: int,
    id: int,
    arg: int,
    name: bytes,
    json: bytes,
    buffers: Sequence[memoryview],
    flags: int = 0,
    placed: tuple[int, int, dict[int, Place]] | None = None,
) -> tuple[bytes | memoryview, ...]:
    """The same in pieces, where a large buffer is one that isn't copied; without those that lie in a segment, by
    `placed`, which is its generation, the frame's serial, and where each lies."""
    if placed is not None and len(placed[2]) == len(buffers):
        # As it is of most large results: nothing follows the JSON.
        generation, serial, places = placed
        table = _TABLE.pack(len(buffers), len(json)) + _SEGMENT.pack(serial, generation, 0)
        for _, offset, length in places.values():
            table += _TABLE.pack(length, offset // PLACE_UNIT + 1)
        length = len(name) + len(table) + len(json)
        first = HEADER.pack(length, kind, flags | BUFFERS | SEGMENT, len(name), id, arg)
        return (first + name + table + json,)
    head = bytearray(name)
    head += _TABLE.pack(len(buffers), len(json))
    if placed is None:
        for buffer in buffers:
            head += _LENGTH.pack(len(buffer))
    else:
        flags |= SEGMENT
        generation, serial, places = placed
        head += _SEGMENT.pack(serial, generation, 0)
        for index, buffer in enumerate(buffers):
            place = places.get(index)
            head += _TABLE.pack(len(buffer), 0 if place is None else place[1] // PLACE_UNIT + 1)
        buffers = [buffer for index, buffer in enumerate(buffers) if index not in places]
    head += json
    length = len(head)
    pieces: list[bytes | memoryview] = []
    for buffer in buffers:
        padding = -length % 8
        head += bytes(padding)
        length += padding + len(buffer)
        if len(buffer) < _WORTH_A_PIECE:
            head += buffer
        else:
            if head:
                pieces.append(bytes(head))
                head.clear()
            pieces.append(buffer)
    if head:
        pieces.append(bytes(head))
    first = HEADER.pack(length, kind, flags | BUFFERS, len(name), id, arg) + pieces[0]
    return (first, *pieces[1:])


_NOTHING = memoryview(b"")


class Decoder:
    """Frames out of a stream that arrives in any pieces.

    Read into `space()`, say `received(n)`, then take frames from `next()` until it has none.
    Small frames are parsed where they lie in one reused buffer; a larger one gets a buffer of its own,
    of which one is kept for the next.
    """

    __slots__ = (
        "_buffer",
        "_kept",
        "_kinds",
        "_limit",
        "_others",
        "_start",
        "_view",
        "_whole",
        "_whole_bytes",
        "filled",
    )

    def __init__(self, limit: int, kinds: frozenset[int] = TO_PYTHON) -> None:
        self._limit = limit
        self._kinds = kinds
        self._others = TO_RUST if kinds is TO_PYTHON else TO_PYTHON
        self._buffer = bytearray(_SPACE)
        self._view = memoryview(self._buffer)
        self._start = 0
        self.filled = 0
        """The end of the bytes that were not taken as frames; 0 for none."""
        self._whole: memoryview | None = None  # where a large frame is gathered; `filled` counts in it
        self._whole_bytes = 0
        self._kept: memoryview | None = None

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._whole is not None:
            return self._whole[self.filled : self._whole_bytes]
        return self._view[self.filled :] if self.filled else self._view

    def received(self, count: int) -> None:
        self.filled += count

    def finish(self) -> None:
        """The stream has ended. Raises if it did so inside a frame."""
        if self._whole is not None or self.filled != self._start:
            got = self.filled if self._whole is not None else self.filled - self._start
            raise ProtocolError("truncated", f"the stream ended {got} bytes into a frame")

    def next(self) -> Frame | None:
        if self._whole is not None:
            return self._next_whole(self._whole)
        start = self._start
        have = self.filled - start
        if have < HEADER_BYTES:
            if start:
                self._move(start, have)
            return None
        length, kind, flags, name_bytes, id, arg = HEADER.unpack_from(self._buffer, start)
        if (
            kind not in self._kinds
            or flags & _RESERVED
            or flags & (BUFFERS | SEGMENT) == SEGMENT
            or name_bytes > length
            or length > self._limit
        ):
            raise self._refusal(length, kind, flags, name_bytes)
        body = start + HEADER_BYTES
        stop = body + length
        if stop > self.filled:
            self._make_room(start, have, HEADER_BYTES + length)
            return None
        if stop == self.filled:
            self._start = self.filled = 0
        else:
            self._start = stop
        if flags & BUFFERS:
            # The place is reused by the next read, a buffer isn't: whoever has it may write to it.
            return self._parsed(self._view[body:stop], True, kind, flags, id, arg, name_bytes)
        split = body + name_bytes
        view = self._view
        name: str = ""
        text: str | bytes = ""
        try:
            if name_bytes:
                name = str(view[body:split], "utf-8")
            if split != stop:
                text = str(view[split:stop], "utf-8")
        except UnicodeDecodeError:
            name, text = _name(view[body:split]), _text(view[split:stop])
        return Frame(kind, flags, id, arg, name, text)

    def _next_whole(self, whole: memoryview) -> Frame | None:
        total = self._whole_bytes
        if self.filled < total:
            return None
        _, kind, flags, name_bytes, id, arg = HEADER.unpack_from(whole, 0)
        self._whole = None
        self._start = self.filled = 0
        body = whole[HEADER_BYTES:total]
        if flags & BUFFERS:
            return self._parsed(body, False, kind, flags, id, arg, name_bytes)
        name = _name(body[:name_bytes])
        frame = Frame(kind, flags, id, arg, name, _text(body[name_bytes:]))
        if len(whole) <= _KEPT:
            self._kept = whole
        return frame

    def _parsed(
        self, body: memoryview, borrowed: bool, kind: int, flags: int, id: int, arg: int, name_bytes: int
    ) -> Frame:
        frame = _parse_buffers(body, borrowed, kind, flags, id, arg, name_bytes)
        if frame.placed is not None:
            length = len(body)
            for _, _, size in frame.placed.places:
                length += size
            if length > self._limit:
                raise ProtocolError("too_large", f"a frame of {length} bytes in all, the limit is {self._limit}")
        return frame

    def _refusal(self, length: int, kind: int, flags: int, name_bytes: int) -> ProtocolError:
        if kind in self._others:
            return ProtocolError("wrong_direction", f"a frame of kind {kind} came the wrong way")
        if kind not in self._kinds:
            return ProtocolError("unknown_kind", f"a frame of unknown kind {kind}")
        if flags & _RESERVED or flags & (BUFFERS | SEGMENT) == SEGMENT:
            return ProtocolError("reserved_flag", f"a frame of kind {kind} with the reserved flags {flags:#04x}")
        if length > self._limit:
            return ProtocolError("too_large", f"a frame of {length} bytes, the limit is {self._limit}")
        return ProtocolError("name_too_long", f"a frame of {length} bytes with a name of {name_bytes}")

    def _make_room(self, start: int, have: int, total: int) -> None:
        """Makes sure that the rest of this frame has space to arrive in."""
        if total <= _SPACE:
            if start + total > _SPACE:
                self._move(start, have)
            return
        whole, self._kept = self._kept, None
        if whole is None or len(whole) < total:
            # Doubling up to what is kept: frames that grow slowly find their buffer large enough.
            whole = memoryview(bytearray(max(total, min(_KEPT, 1 << total.bit_length()))))
        whole[:have] = self._view[start : start + have]
        self._whole = whole
        self._whole_bytes = total
        self._start = 0
        self.filled = have

    def _move(self, start: int, have: int) -> None:
        self._view[:have] = self._view[start : start + have]
        self._start = 0
        self.filled = have


def _name(view: memoryview) -> str:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("name_not_utf8", f"a frame whose name isn't UTF-8: {bytes(view)!r:.80}") from None


def _text(view: memoryview) -> str | bytes:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError:
        return bytes(view)


def _parse_buffers(
    body: memoryview, borrowed: bool, kind: int, flags: int, id: int, arg: int, name_bytes: int
) -> Frame:
    """A frame whose buffers are views of the body, or of a copy where that is borrowed."""
    end = len(body)
    table = name_bytes + _TABLE.size
    if table > end:
        raise _bad_table(kind, body, "no room for the table of buffers")
    count, json_bytes = _TABLE.unpack_from(body, name_bytes)
    if count > MAX_BUFFERS:
        raise _bad_table(kind, body, f"{count} buffers, at most {MAX_BUFFERS} are allowed")
    placed = None
    entry = _LENGTH.size
    if flags & SEGMENT:
        entry = _TABLE.size
        if table + _SEGMENT.size > end:
            raise _bad_table(kind, body, "no room for the segment")
        serial, generation, reserved = _SEGMENT.unpack_from(body, table)
        if reserved:
            raise _bad_table(kind, body, "the segment's reserved field isn't zero")
        table += _SEGMENT.size
        placed = Placed(generation, serial, [])
    json = table + entry * count
    position = json + json_bytes
    if position > end:
        raise _bad_table(kind, body, f"no room for a table of {count} buffers and {json_bytes} bytes of JSON")
    name = _name(body[:name_bytes])
    text = _text(body[json:position])
    buffers: list[memoryview] = []
    for offset in range(table, json, entry):
        if placed is None:
            (length,) = _LENGTH.unpack_from(body, offset)
        else:
            length, place = _TABLE.unpack_from(body, offset)
            if place:
                placed.places.append((len(buffers), (place - 1) * PLACE_UNIT, length))
                buffers.append(_NOTHING)
                continue
        if borrowed:
            body = memoryview(bytearray(body))
            borrowed = False
        padding = -position % 8
        if any(body[position : position + padding]):
            raise _bad_table(kind, body, f"the padding at {position} isn't zero")
        position += padding
        if position + length > end:
            raise _bad_table(
                kind, body, f"buffer {len(buffers)} of {count}, {length} bytes at {position}, reaches beyond the end"
            )
        buffers.append(body[position : position + length])
        position += length
    if position != end:
        raise _bad_table(kind, body, f"{end - position} bytes after the last buffer")
    return Frame(kind, flags, id, arg, name, text, buffers, placed)


def _bad_table(kind: int, body: memoryview, why: str) -> ProtocolError:
    return ProtocolError("bad_buffer_table", f"a frame of kind {kind} with {len(body)} bytes of body: {why}")
