"""The decoder: recorded frames that Rust's decoder passes too, and properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepen import _wire
from snakepen._wire import Decoder, Frame, ProtocolError

RECORDED = json.loads((Path(__file__).parents[2] / "tests" / "frames.json").read_text())
KINDS = {"to_python": _wire.TO_PYTHON, "to_rust": _wire.TO_RUST}


def feed(decoder: Decoder, data: bytes) -> list[Frame]:
    frames: list[Frame] = []
    while data:
        space = decoder.space()
        part, data = data[: len(space)], data[len(space) :]
        space[: len(part)] = part
        decoder.received(len(part))
        while (frame := decoder.next()) is not None:
            frames.append(frame)
    return frames


def plain(frame: Frame) -> tuple[Any, ...]:
    buffers = [bytes(buffer) for buffer in frame.buffers]
    return frame.kind, frame.flags, frame.id, frame.arg, frame.name, frame.json, buffers


@pytest.mark.parametrize("record", RECORDED["frames"], ids=lambda record: record["name"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_recorded(record: dict[str, Any], piece: int) -> None:
    data = bytes.fromhex(record["hex"])
    decoder = Decoder(RECORDED["max_frame"], KINDS[record["direction"]])
    frames: list[Frame] = []
    try:
        for start in range(0, len(data), piece):
            frames += feed(decoder, data[start : start + piece])
        decoder.finish()
    except ProtocolError as error:
        assert not record["valid"], error
        assert error.key == record["error"]
        return
    assert record["valid"]
    expected = [record[key] for key in ("kind", "flags", "id", "arg", "frame_name", "json")]
    assert [plain(frame) for frame in frames] == [(*expected, [bytes.fromhex(text) for text in record["buffers"]])]


@pytest.mark.parametrize(
    "record", [record for record in RECORDED["frames"] if record["valid"]], ids=lambda r: r["name"]
)
def test_encoding_gives_the_recorded_bytes(record: dict[str, Any]) -> None:
    fields = (record["kind"], record["id"], record["arg"], record["frame_name"].encode(), record["json"].encode())
    if record["flags"] & _wire.BUFFERS:
        buffers = [bytes.fromhex(text) for text in record["buffers"]]
        data = _wire.encode_with_buffers(*fields, buffers, record["flags"])
    else:
        data = _wire.encode(*fields, record["flags"])
        assert data == _wire.encode_head(*fields[:4], len(fields[4]), record["flags"]) + fields[4]
    assert data.hex() == record["hex"]


words = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
frames = st.builds(
    Frame,
    st.sampled_from(sorted(_wire.TO_PYTHON)),
    st.sampled_from([0, _wire.RECYCLE]),
    words,
    words,
    texts,
    # Also frames that are larger than the decoder's own buffer.
    st.one_of(texts, st.builds(lambda text, count: text * count, texts, st.sampled_from([1, 300, 9000]))),
    st.one_of(st.just(()), st.lists(st.binary(max_size=40), min_size=1, max_size=4)),
)


def encoded(frame: Frame) -> bytes:
    fields = (frame.kind, frame.id, frame.arg, frame.name.encode(), str(frame.json).encode())
    if frame.buffers:
        frame.flags |= _wire.BUFFERS
        return _wire.encode_with_buffers(*fields, [bytes(buffer) for buffer in frame.buffers], frame.flags)
    return _wire.encode(*fields, frame.flags)


@settings(max_examples=120)
@given(st.lists(frames, max_size=6), st.data())
def test_frames_survive_any_chunking(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encoded, sent))
    decoder = Decoder(1 << 22)
    got: list[tuple[Any, ...]] = []
    while stream:
        size = data.draw(st.integers(1, max(1, min(len(stream), 100_000))))
        got += [plain(frame) for frame in feed(decoder, stream[:size])]
        stream = stream[size:]
    decoder.finish()
    assert got == [plain(frame) for frame in sent]


@settings(max_examples=400)
@given(st.binary(max_size=300), st.booleans())
def test_garbage_raises_nothing_but_protocol_errors(data: bytes, plausible: bool) -> None:
    if plausible and len(data) >= 6:  # past the first checks, into the body
        data = len(data).to_bytes(4, "little") + bytes([1 + data[4] % 5, data[5] % 4]) + data[6:]
    decoder = Decoder(1024)
    try:
        feed(decoder, data)
        decoder.finish()
    except ProtocolError as error:
        assert error.key and str(error)


def test_the_limit_is_inclusive() -> None:
    (frame,) = feed(Decoder(100_000), _wire.encode(_wire.CALL, 1, json=b"x" * 100_000))
    assert len(frame.json) == 100_000
    with pytest.raises(ProtocolError, match=r"100001 bytes, the limit is 100000"):
        feed(Decoder(100_000), _wire.encode(_wire.CALL, 1, json=b"x" * 100_001))


def test_json_that_is_no_utf8_stays_bytes() -> None:
    (frame,) = feed(Decoder(100), _wire.encode(_wire.CALL, 1, name=b"f", json=b'"\xff"'))
    assert frame.json == b'"\xff"'


def test_buffers_outlive_the_next_frame() -> None:
    decoder = Decoder(1 << 20)
    (large,) = feed(decoder, _wire.encode_with_buffers(_wire.CALL, 1, 0, b"", b"", [b"a" * 200_000]))
    (small,) = feed(decoder, _wire.encode_with_buffers(_wire.CALL, 1, 0, b"", b"", [b"b" * 20]))
    feed(decoder, _wire.encode_with_buffers(_wire.CALL, 1, 0, b"", b"", [b"c" * 200_000]))
    feed(decoder, _wire.encode(_wire.CALL, 1, json=b"d" * 60_000))
    assert bytes(large.buffers[0]) == b"a" * 200_000 and bytes(small.buffers[0]) == b"b" * 20
    assert not large.buffers[0].readonly and not small.buffers[0].readonly


@given(st.lists(st.integers(0, 40) | st.integers(16_000, 17_000), min_size=1, max_size=6), st.binary())
def test_frames_in_pieces_are_the_same_bytes(sizes: list[int], json: bytes) -> None:
    buffers = [bytes([n % 256]) * n for n in sizes]
    pieces = _wire.encode_pieces(_wire.RESULT, 7, 8, b"name", json, [memoryview(buffer) for buffer in buffers], 2)
    whole = _wire.encode_with_buffers(_wire.RESULT, 7, 8, b"name", json, buffers, 2)
    assert b"".join(pieces) == whole and all(len(piece) for piece in pieces)
