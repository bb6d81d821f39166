"""Arrow tables beside the JSON."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from snakepen import _codec
from snakepen._json import Unserialisable


class Exports:
    """Has the PyCapsule interface, and is of no library that Snakepen knows."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


def test_without_pyarrow_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unserialisable) as error:
        _codec.dumps({"a": [Exports(None)]})
    assert error.value.path == "$.a[0]" and "pyarrow" in error.value.message
    with pytest.raises(ValueError, match="needs pyarrow"):
        _codec.loads('{"\\u0000snakepen":[0,"arrow"]}', [memoryview(b"")])


def test_tables_come_back() -> None:
    pyarrow: Any = pytest.importorskip("pyarrow")
    table = pyarrow.table({"name": ["a", None, "größe"], "value": [1.5, 2.5, None], "list": [[1], [], None]})
    for value in (table, Exports(table), table.to_reader()):
        json, buffers = _codec.dumps([value, b"x"])
        assert json == b'[{"\\u0000snakepen":[0,"arrow"]},{"\\u0000snakepen":[1]}]'
        found, _ = _codec.loads(json, buffers)
        assert found.equals(table)
    batch = table.to_batches()[0]
    assert _codec.loads(*_codec.dumps(batch)).equals(table)
    assert _codec.loads(*_codec.dumps(table.slice(0, 0))).schema == table.schema


def test_a_table_lies_in_the_memory_that_came() -> None:
    pyarrow: Any = pytest.importorskip("pyarrow")
    json, (buffer,) = _codec.dumps(pyarrow.table({"x": list(range(1000))}))
    memory = bytearray(buffer)
    found = _codec.loads(json, [memoryview(memory)])
    with pytest.raises(BufferError):
        memory.clear()
    del found
    memory.clear()


def test_what_is_no_table_is_named() -> None:
    pyarrow: Any = pytest.importorskip("pyarrow")
    with pytest.raises(Unserialisable) as error:
        _codec.dumps([pyarrow.array([1, 2])])
    assert error.value.path == "$[0]" and "record batch" in error.value.message
    with pytest.raises(ValueError, match="Arrow"):
        _codec.loads('{"\\u0000snakepen":[0,"arrow"]}', [memoryview(b"nonsense")])
