"""Buffers and arrays beside the JSON."""

from __future__ import annotations

import array
import ctypes
import sys
import threading
from collections.abc import Callable
from mmap import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepen import _codec
from snakepen._json import Unserialisable

numpy: Any = pytest.importorskip("numpy")

Encoded = tuple[bytes, Any]


def back(value: Any, writable: bool = False) -> Any:
    json, buffers = _codec.dumps(value)
    return _codec.loads(json, buffers, writable)


def test_json_alone_has_no_buffers() -> None:
    assert _codec.dumps({"a": [1, "é", None]}) == ('{"a":[1,"é",null]}'.encode(), ())
    assert _codec.loads(b'{"\\u0000snakepen":[0]}', ()) == {"\0snakepen": [0]}, "no buffers, no placeholders"


@pytest.mark.parametrize("value", [b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"abcd")[:3]])
def test_bytes(value: Any) -> None:
    json, buffers = _codec.dumps({"x": [value]})
    assert json == b'{"x":[{"\\u0000snakepen":[0]}]}'
    assert [bytes(buffer) for buffer in buffers] == [b"abc"]


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "M8[ns]", "m8[s]", "U3", "S5"],
)
def test_arrays_of_every_dtype_come_back(dtype: str) -> None:
    for shape in ((), (6,), (2, 3), (0,), (2, 0, 3), (3, 1, 2)):
        count = int(numpy.prod(shape))
        value = numpy.arange(count).astype("i8").astype(dtype).reshape(shape)
        found = back([value])[0]
        assert found.dtype == value.dtype and found.shape == shape
        assert found.tobytes() == value.tobytes() and not found.flags.writeable


def test_what_is_in_one_piece_is_not_copied() -> None:
    value = numpy.arange(1000.0)
    _, (buffer,) = _codec.dumps(value)
    value[0] = 7.0
    assert buffer.nbytes == 8000 and memoryview(buffer).cast("d")[0] == 7.0
    found = _codec.loads(b'{"\\u0000snakepen":[0,"<f8",[1000]]}', [buffer])
    assert numpy.shares_memory(found, value) and not found.flags.writeable


def test_other_orders_are_copied_into_the_order_of_c() -> None:
    value = numpy.arange(12.0).reshape(3, 4)
    for other in (
        value.T,
        value[:, ::2],
        value[::-1],
        numpy.asfortranarray(value),
        numpy.broadcast_to(value, (2, 3, 4)),
    ):
        assert numpy.array_equal(back(other), other)
    view = memoryview(b"abcdef")[::2]
    assert bytes(back(view)) == b"ace"


def test_writable_is_the_handler_s_own() -> None:
    for value in (numpy.arange(3.0), b"abc"):
        found = back(value, writable=True)
        found[0] = 9
        assert found[0] == 9
        with pytest.raises((ValueError, TypeError), match="read-only"):
            back(value)[0] = 9
    data = b"abc"
    back(data, writable=True)[0] = 0
    assert data == b"abc"


def _array_in(memory: Any, dtype: str, shape: list[int], size: int) -> Any:
    with memoryview(memory) as view:
        return _codec.loads(f'{{"\\u0000snakepen":[0,"{dtype}",{shape}]}}', [view[:size]])


@pytest.mark.parametrize(
    "part",
    [
        lambda array: array,
        lambda array: array[1:],
        lambda array: array.T,
        lambda array: array[:, ::2],
        lambda array: array.view("i8"),
        lambda array: array.view(numpy.matrix),
        lambda array: array.flat,
        memoryview,
        lambda array: numpy.frombuffer(memoryview(array), "f8"),
        lambda array: numpy.broadcast_to(array, (3, 2, 5)),
    ],
)
def test_memory_is_in_use_as_long_as_a_part_of_an_array_is(part: Callable[[Any], Any]) -> None:
    memory = mmap(-1, 4096)
    kept = part(_array_in(memory, "<f8", [2, 5], 80))
    with pytest.raises(BufferError):
        memory.close()
    del kept
    memory.close()


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("<f8", [2, 2], 24),
        ("<f8", [2, 2], 40),
        ("<f8", [1], 7),
        ("<f8", [-1], 8),
        ("<f8", [1 << 62, 4], 32),
        ("<f8", [0], 8),
        ("<U0", [1], 4),
    ],
)
def test_bytes_that_are_no_such_array_are_refused(dtype: str, shape: list[int], size: int) -> None:
    memory = mmap(-1, 4096)
    with pytest.raises(ValueError, match=f"^{size} bytes are no array of dtype {dtype} and shape"):
        _array_in(memory, dtype, shape, size)


def test_whatever_has_the_buffer_protocol() -> None:
    assert back(array.array("d", [1.0, 2.0])).tolist() == [1.0, 2.0]
    assert back(array.array("B", [1, 2])).dtype.str == "|u1"
    assert back((ctypes.c_int32 * 3)(1, 2, 3)).tolist() == [1, 2, 3]
    assert back(memoryview(bytes(16)).cast("d", [1, 2])).shape == (1, 2)
    with pytest.raises(Unserialisable) as big:
        _codec.dumps([(ctypes.c_int32.__ctype_be__ * 2)(1, 2)])
    assert big.value.path == "$[0]" and "big-endian" in big.value.message


def test_scalars_are_numbers() -> None:
    for odd in (numpy.complex64(1j), numpy.datetime64("2024-01-01"), numpy.longdouble(1)):
        assert back(odd).shape == () and back(odd)[()] == odd
    json, buffers = _codec.dumps(
        [numpy.int64(3), numpy.float32(0.1), numpy.bool_(True), numpy.float64(2.5), numpy.uint8(7)]
    )
    assert json == b"[3,0.10000000149011612,true,2.5,7]" and not buffers


CASES: list[tuple[Any, str, str]] = [
    (numpy.array([1, None], dtype=object), "object", "tolist"),
    (numpy.arange(3, dtype=">f8"), ">f8", "newbyteorder"),
    (numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8")]), "'a'", "fields"),
    (numpy.zeros(2, dtype="V8"), "V8", "astype"),
    (numpy.ma.masked_array([1.0, 2.0], [True, False]), "masked", "filled"),
    (numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0], "'a'", "fields"),
    (numpy.float32("nan"), "nan", "None"),
    ((ctypes.c_wchar * 2)("a", "b"), "format", "bytes(value)"),
    ({1}, "set", "sorted"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
def test_what_cannot_travel_is_named_with_its_path_and_a_way_out(case: tuple[Any, str, str]) -> None:
    value, name, advice = case
    with pytest.raises(Unserialisable) as error:
        _codec.dumps({"good": [b"x", numpy.zeros(2)], "bad": (1, value)})
    assert error.value.path == "$.bad[1]", error.value.message
    assert name in error.value.message and advice in error.value.message


def test_a_value_is_never_taken_for_a_placeholder() -> None:
    forged = {"\0snakepen": [0]}
    assert _codec.loads(*_codec.dumps(forged)) == forged
    for value in ([forged, b"x"], [b"x", forged], {"\0snakepen": b"x"}, [b"x", {"\0snakepen": [1], "more": 1}]):
        with pytest.raises(Unserialisable, match="Snakepen's own"):
            _codec.dumps(value)
    text = '{"\\u0000snakepen":[0]}'
    found = back([text, b"x", {text: 1}])
    assert found[0] == text and bytes(found[1]) == b"x" and found[2] == {text: 1}


@pytest.mark.parametrize(
    "text",
    [
        "null",
        '{"\\u0000snakepen":[0]}',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[0]}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[2]}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[-1]}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[1,"<f8",[7]]}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[1,"|O8",[1]]}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[]}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":7}]',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[1]}] 7',
        '[{"\\u0000snakepen":[0]},{"\\u0000snakepen":[1,"nonsense",[1]]}]',
    ],
)
def test_placeholders_and_buffers_must_agree(text: str) -> None:
    with pytest.raises(ValueError):
        _codec.loads(text, [memoryview(b"x"), memoryview(bytes(8))])


def test_the_limit_counts_buffers_too() -> None:
    assert _codec.dumps(bytes(1000), 1100)[1][0].nbytes == 1000
    for value, limit in ((bytes(1000), 1000), ("x" * 1000, 1000), ([bytes(500), bytes(500)], 1010)):
        with pytest.raises(Unserialisable, match=f"the pool's largest frame is {limit}"):
            _codec.dumps(value, limit)
    with pytest.raises(Unserialisable, match="at most 65535"):
        _codec.dumps([b""] * 65_536)


class Odd(numpy.ndarray):  # type: ignore[misc]
    shape = property(lambda self: (numpy.int64(2), numpy.int64(2)))  # pyright: ignore


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_subclasses_travel_as_arrays() -> None:
    plain = numpy.array([[1, 2], [3, 4]])
    for value in (numpy.matrix(plain), plain.view(Odd), plain.view(numpy.recarray)):
        for result, path in ((value, lambda found: found), ([value, b"x"], lambda found: found[0])):
            json, buffers = _codec.dumps(result)
            assert len(buffers[0]) == plain.nbytes
            assert numpy.array_equal(path(_codec.loads(json, buffers)), plain)


def test_without_numpy_an_array_is_a_memoryview(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [numpy.arange(6.0).reshape(2, 3), numpy.arange(3, dtype="u2"), numpy.array(5, dtype="i8"), numpy.zeros(0)]
    encoded = [_codec.dumps(value) for value in values]
    odd = [_codec.dumps(numpy.zeros(2, dtype="c16")), _codec.dumps(numpy.zeros((2, 0)))]
    monkeypatch.setattr(_codec, "_missing", False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    for value, (json, buffers) in zip(values, encoded, strict=True):
        found = _codec.loads(json, buffers)
        assert isinstance(found, memoryview) and found.readonly
        assert found.shape == value.shape and found.itemsize == value.itemsize and found.tolist() == value.tolist()
    for json, buffers in odd:
        with pytest.raises(ValueError, match="needs NumPy"):
            _codec.loads(json, buffers)


values = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return bytes(value) if isinstance(value, memoryview) else value


@given(values)
def test_bytes_anywhere_come_back(value: Any) -> None:
    try:
        json, buffers = _codec.dumps(value)
    except Unserialisable as error:
        assert "surrogate" in error.message or "own" in error.message
        return
    assert plain(_codec.loads(json, buffers)) == value


def test_threads_may_encode_the_same_value_at_once() -> None:
    value = [[numpy.zeros(3), b"x"]] * 20
    failed: list[BaseException] = []

    def encode() -> None:
        try:
            for _ in range(300):
                assert len(_codec.dumps(value)[1]) == 40
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=encode) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
