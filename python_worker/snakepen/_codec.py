"""Values to JSON with raw buffers beside it, and back; what `src/codec.rs` is in Rust.

A buffer's place in the JSON is an object with one odd key: `[index]` for bytes, `[index, dtype, shape]` for an array,
`[index, "arrow"]` for a table, as a stream of Arrow's IPC format.
In a frame without buffers nothing is a placeholder; in one with them, so many must be there, each once.
"""

from __future__ import annotations

import sys

from . import _handlers, _json
from ._json import Unserialisable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._wire import Frame

    Encoded = tuple[bytes, Sequence[memoryview]]

_KEY = "\0snakepen"
_OPENING = '{"\\u0000snakepen":'
"""How a placeholder begins; no string in JSON can have this in it."""

_ARROW = "arrow"

MAX_BUFFERS = 65_535

_PLAIN = frozenset((dict, list, str, int, float, bool, type(None), tuple))
_IN_JSON = (dict, list, str, int, float, tuple, type(None))
"""What JSON's encoder knows, subclasses included."""

# A struct's letter to a dtype's; the size follows.
_KINDS = {
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("BHILQN", "u"),
    **dict.fromkeys("efd", "f"),
    "?": "b",
    "Zf": "c",
    "Zd": "c",
}

# And back, where there is no NumPy.
_FORMATS = {
    "|b1": "?",
    "|i1": "b",
    "<i2": "h",
    "<i4": "i",
    "<i8": "q",
    "|u1": "B",
    "<u2": "H",
    "<u4": "I",
    "<u8": "Q",
    "<f4": "f",
    "<f8": "d",
}


class _Unfit(Exception):
    """A value that is no JSON and can't travel beside it; says why, or nothing where it isn't an array at all."""


# === Results ===


def dumps(value: Any, limit: int = sys.maxsize) -> Encoded:
    """JSON, and what goes beside it: views of the value's own memory, wherever that is in one piece.

    Raises Unserialisable, also for what takes more than `limit` bytes.
    """
    if type(value) in _PLAIN:
        try:
            json = _json.to_text(value).encode()
        except TypeError:
            pass  # something in it isn't JSON
        except MemoryError:
            raise
        except Exception as error:
            raise _diagnosed(value, error) from None
        else:
            if len(json) > limit:
                raise _too_large(value, f"{len(json)} bytes as JSON", limit)
            return json, ()
    return _dumps_beside(value, limit)


def _dumps_beside(value: Any, limit: int) -> Encoded:
    try:
        json, buffers = _containing(value) if isinstance(value, _IN_JSON) else _alone(value)
    except (MemoryError, Unserialisable):
        raise
    except Exception as error:
        raise _diagnosed(value, error) from None
    size = len(json) + beside(buffers)
    if size > limit:
        raise _too_large(value, f"{size} bytes, {len(json)} of them as JSON", limit)
    return json, buffers


def _alone(value: Any) -> Encoded:
    """An array or the like by itself, as most are: JSON has nothing else."""
    found = _travelling(value)
    if isinstance(found, _Number):
        return _json.to_text(found.value).encode(), ()
    # A dtype has no character that JSON escapes, and a list of integers is the same there.
    if len(found) == 3:
        view, dtype, shape = found
        return f'{_OPENING}[0,"{dtype}",{shape}]}}'.encode(), [view]
    told = ',"arrow"' if len(found) > 1 else ""
    return f"{_OPENING}[0{told}]}}".encode(), [found[0]]


def _containing(value: Any) -> Encoded:
    buffers: list[memoryview] = []

    def put(item: Any) -> Any:
        found = _travelling(item)
        if isinstance(found, _Number):
            return found.value
        view, *what = found
        buffers.append(view)
        if len(buffers) > MAX_BUFFERS:
            raise _TooMany
        return {_KEY: [len(buffers) - 1, *what]}

    text = _json.encoder(put)(value)
    if text.count(_OPENING) != len(buffers):
        raise Unserialisable(type(value).__name__, "$", f"a dict has the key {_KEY!r}, which is Snakepen's own")
    return text.encode(), buffers


def beside(buffers: Sequence[memoryview]) -> int:
    """What they add to a frame, at most: 4 bytes each in the table, and 7 of padding."""
    return sum(map(len, buffers)) + 12 * len(buffers)


def renumbered(json: bytes, first: int) -> bytes:
    """The same with the buffers counted from `first`."""
    if not first:
        return json
    opening = f"{_OPENING}[".encode()
    head, *places = json.split(opening)
    for place in places:
        digits = len(place) - len(place.lstrip(b"0123456789"))
        head += opening + str(first + int(place[:digits])).encode() + place[digits:]
    return head


def _too_large(value: Any, size: str, limit: int) -> Unserialisable:
    message = f"the result takes {size}, the pool's largest frame is {limit}"
    return Unserialisable(type(value).__name__, "$", message)


def _diagnosed(value: Any, error: Exception) -> Unserialisable:
    from . import _diagnosis

    if isinstance(error, _TooMany):
        message = f"a result has at most {MAX_BUFFERS} buffers and arrays: join them, or return lists"
        return Unserialisable(type(value).__name__, "$", message)
    return _diagnosis.diagnose(value, error, _unfit)


def _unfit(value: Any) -> str | None:
    try:
        found = _travelling(value)
    except _Unfit as why:
        return str(why)
    if isinstance(found, _Number) and found.value - found.value != 0:  # as it is for NaN and the infinities
        return f"{value!r} isn't JSON: return None, or a string that you agree on"
    return None


class _TooMany(Exception):
    pass


class _Number:
    """What NumPy calls a scalar is a number in JSON."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


def _travelling(value: Any) -> _Number | tuple[memoryview] | tuple[memoryview, str] | tuple[memoryview, str, list[int]]:
    """The bytes of a value, and if it is an array its dtype and shape."""
    if isinstance(value, (bytes, bytearray)):
        return (memoryview(value),)
    numpy: Any = sys.modules.get("numpy")
    if hasattr(numpy, "ndarray"):  # else it is just being imported
        if isinstance(value, numpy.ndarray):
            return _from_numpy(numpy, value)
        if isinstance(value, numpy.generic):
            scalar: Any = value
            number = scalar.item() if scalar.dtype.kind in "biuf" else None
            if isinstance(number, (int, float)):  # not a long double
                return _Number(number)
            return _from_numpy(numpy, numpy.asarray(scalar))
    if hasattr(type(value), "__arrow_c_stream__") or hasattr(type(value), "__arrow_c_array__"):
        return _from_arrow(value)
    try:
        view = memoryview(value)
    except TypeError:
        raise _Unfit("") from None
    except Exception as error:
        raise _Unfit(f"the buffer can't be read: {type(error).__name__}: {error}") from None
    letters = view.format.lstrip("@=<")
    if view.ndim == 1 and letters in "Bc" and not hasattr(value, "typecode"):  # array.array("B") is an array
        return (_flat(view),)
    if letters[:1] in (">", "!"):
        if view.itemsize > 1:
            raise _Unfit(
                f"a buffer of format {view.format!r} is big-endian, arrays travel little-endian: swap its bytes"
            )
        letters = letters[1:]
    kind = _KINDS.get(letters)
    if kind is None:
        raise _Unfit(f"a buffer of format {view.format!r} is no array of numbers: return bytes(value), or lists")
    shape = list(view.shape or ())
    return _flat(view), f"{'|' if view.itemsize == 1 else '<'}{kind}{view.itemsize}", shape


# What NumPy's types are called, and what those names are; emptied when there are too many.
_names: dict[Any, str] = {}
_dtypes: dict[str, Any] = {}
_REMEMBERED = 256


def _from_numpy(numpy: Any, array: Any) -> tuple[memoryview, str, list[int]]:
    dtype = array.dtype
    plain = type(array) is numpy.ndarray
    if not plain and isinstance(array, numpy.ma.MaskedArray):
        raise _Unfit("a masked array can't travel: return value.filled(...), or its .data and its .mask")
    name = _names.get(dtype) or _name(numpy, dtype)
    if not plain:
        array = numpy.asarray(array)  # a subclass may have its own idea of a shape: a matrix is never flat
    shape = list(array.shape)
    try:
        return memoryview(array).cast("B"), name, shape
    except (TypeError, ValueError):  # it is empty, not in one piece, or of a dtype that a memoryview doesn't know
        pass
    if array.nbytes == 0:
        return memoryview(b""), name, shape
    if not array.flags.c_contiguous:
        array = numpy.ascontiguousarray(array)
    return memoryview(array.reshape(-1).view("u1")), name, shape


def _name(numpy: Any, dtype: Any) -> str:
    if dtype.hasobject:
        raise _Unfit(
            f"an array of dtype {dtype} holds Python objects: return value.tolist(), or value.astype(float) "
            "if they are numbers"
        )
    name = dtype.str
    if name.startswith(">"):
        raise _Unfit(
            f"an array of dtype {name} is big-endian, arrays travel little-endian: "
            'return value.astype(value.dtype.newbyteorder("<"))'
        )
    if dtype.kind == "V" or numpy.dtype(name) != dtype:
        raise _Unfit(
            f"an array of dtype {dtype} has no plain numbers for elements: "
            + ("return its fields one by one, {name: value[name]}" if dtype.names else "return value.astype(float)")
        )
    if len(_names) >= _REMEMBERED:
        _names.clear()
    _names[dtype] = name
    return name


def _from_arrow(value: Any) -> tuple[memoryview, str]:
    name = type(value).__name__
    try:
        import pyarrow  # pyright: ignore
    except ImportError:
        raise _Unfit(
            f"{name} travels as an Arrow table, which needs pyarrow in this worker's environment: "
            "install it, or return lists"
        ) from None
    arrow: Any = pyarrow
    try:
        table = arrow.table(value)
    except Exception as error:  # of a column alone, for one
        raise _Unfit(
            f"no Arrow table can be made of {name} ({type(error).__name__}: {error}): return a table or a record batch"
        ) from None
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return _flat(memoryview(sink.getvalue())), _ARROW


def _flat(view: memoryview) -> memoryview:
    """Its bytes in C order; copied only where they aren't."""
    if view.nbytes and view.c_contiguous:
        try:
            return view.cast("B")
        except TypeError:  # a format that isn't native
            pass
    return memoryview(view.tobytes())


# === Arguments ===


def arguments(call: Frame) -> Any:
    """Raises ValueError or RecursionError, and MemoryError."""
    buffers, call.buffers = call.buffers, ()  # from here on they are the handler's alone
    if not buffers:
        return _json.loads(call.json) if call.json else None
    return loads(call.json, buffers, call.name in _handlers.writable)


def loads(json: str | bytes, buffers: Sequence[memoryview], writable: bool = False) -> Any:
    """The value, with views of these very buffers in it; read-only ones, or ones that may be written to.

    Raises ValueError or RecursionError.
    """
    text = json if isinstance(json, str) else str(json, "utf-8")
    if not buffers:
        return _json.loads(text)
    try:
        placeholders = _idle.pop()
    except IndexError:
        placeholders = _Placeholders()
    waiting = placeholders.waiting = list(buffers)
    placeholders.writable = writable
    try:
        value = placeholders.read(text)
    finally:
        placeholders.waiting = []  # it must not keep what the handler may let go
        _idle.append(placeholders)
    left = len(waiting) - waiting.count(None)
    if left:
        raise ValueError(f"{left} of {len(waiting)} buffers have no placeholder")
    return value


class _Placeholders:
    """Puts buffers where JSON has their placeholders. Kept for the next values, as a scanner takes long to make."""

    __slots__ = ("read", "waiting", "writable")

    def __init__(self) -> None:
        self.waiting: list[memoryview | None] = []
        self.writable = False
        self.read = _json.reader(self._resolve)

    def _resolve(self, found: dict[str, Any]) -> Any:
        if len(found) != 1 or _KEY not in found:
            return found
        index, *what = found[_KEY]
        waiting = self.waiting
        view = waiting[index] if isinstance(index, int) and 0 <= index < len(waiting) else None
        if view is None:
            raise ValueError(f"a placeholder for buffer {index!r} of {len(waiting)} is one too many")
        waiting[index] = None
        if not self.writable:
            view = view.toreadonly()
        elif view.readonly:
            view = memoryview(bytearray(view))
        if not what:
            return view
        return _table(view) if what == [_ARROW] else _array(view, *what)


# One for each thread that reads just now, and those that did.
_idle: list[_Placeholders] = []


def _array(view: Any, dtype: str, shape: list[int]) -> Any:
    numpy = _numpy()
    if numpy is not None:
        kind = _dtypes.get(dtype)
        if kind is None:
            kind = numpy.dtype(dtype)
            if kind.hasobject:
                raise ValueError(f"an array of dtype {dtype} holds Python objects")
            if len(_dtypes) >= _REMEMBERED:
                _dtypes.clear()
            _dtypes[dtype] = kind
        try:
            # Not `ndarray(shape, kind, view)`: that refers to what is behind the view, and not to the view, which is
            # how the memory is known to be in use.
            array = numpy.frombuffer(view, kind).reshape(shape)
        except ValueError:
            array = None
        if array is None or array.shape != tuple(shape) or array.nbytes != len(view):
            raise ValueError(f"{len(view)} bytes are no array of dtype {dtype} and shape {shape}")
        return array
    letter = _FORMATS.get(dtype)
    if letter is None or (0 in shape and len(shape) > 1):
        raise ValueError(
            f"an array of dtype {dtype} and shape {shape} needs NumPy, "
            "which can't be imported in this worker's environment"
        )
    return view.cast(letter) if len(shape) == 1 else view.cast(letter, shape)


def _table(view: memoryview) -> Any:
    try:
        import pyarrow  # pyright: ignore
    except ImportError:
        raise ValueError("an Arrow table needs pyarrow, which can't be imported in this worker's environment") from None
    arrow: Any = pyarrow
    try:
        return arrow.ipc.open_stream(arrow.py_buffer(view)).read_all()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"no Arrow table: {error}") from None


_missing = False


def _numpy() -> Any:
    global _missing
    numpy = sys.modules.get("numpy")
    if hasattr(numpy, "ndarray"):
        return numpy
    if not _missing:
        try:
            import numpy

            return numpy
        except ImportError:
            _missing = True  # to look for it again in each call would take longer than the call
    return None
