"""Finding the handlers: files, modules, exposed functions, and what may go wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module, reload
from pathlib import Path
from typing import Any

import pytest
from harness import Launcher

import snakepen
from snakepen import _handlers, _wire

Handlers = Callable[[str], dict[str, str]]


def fails(launcher: Launcher, **config: Any) -> tuple[str, dict[str, Any]]:
    assert launcher.configure(**config)["op"] == "ready"
    port = launcher.spawn()
    frame = port.receive()
    assert frame.kind == _wire.FAILED
    assert port.at_end()
    assert launcher.hear()["code"] == 1
    return frame.name, json.loads(frame.json)


def test_a_module_and_exposed_functions(launcher: Launcher, tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "orders.py").write_text("import snakepen\n@snakepen.handler(name='count')\ndef f(): return 4\n")
    launcher.configure(
        handlers={"module": "shop.orders"}, paths=[str(tmp_path)], expose={"root": "math:sqrt", "join": "os:path.join"}
    )
    port = launcher.spawn()
    ready = port.receive()
    assert (ready.kind, ready.arg) == (_wire.READY, 1)
    assert json.loads(ready.json)["handlers"] == ["count", "join", "root"]
    assert json.loads(ready.json)["pid"] == port.pid
    assert (port.call("count"), port.call("root", 9), port.call("join", "a", "b")) == (4, 3.0, "a/b")


def test_a_missing_file(launcher: Launcher, tmp_path: Path) -> None:
    stage, error = fails(launcher, handlers={"file": str(tmp_path / "nowhere.py")})
    assert (stage, error["type"]) == ("handlers", "FileNotFoundError")
    assert "nowhere.py" in error["message"]


def test_a_syntax_error_shows_the_line(launcher: Launcher, handlers: Handlers) -> None:
    stage, error = fails(launcher, handlers=handlers("def f(:\n"))
    assert (stage, error["type"]) == ("handlers", "SyntaxError")
    assert "user_handlers.py" in error["traceback"] and "^" in error["traceback"]


def test_an_import_error_has_only_the_users_frames(launcher: Launcher, handlers: Handlers) -> None:
    _, error = fails(launcher, handlers=handlers("import nowhere_to_be_found\n"))
    assert error["type"] == "ModuleNotFoundError"
    assert [line for line in error["traceback"].splitlines() if line.startswith("  File")] == [
        f'  File "{handlers("")["file"]}", line 3, in <module>'
    ]


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "exit()", "raise KeyboardInterrupt"])
def test_leaving_while_loading_is_a_failure(launcher: Launcher, handlers: Handlers, text: str) -> None:
    stage, error = fails(launcher, handlers=handlers(text))
    assert stage == "handlers" and error["type"] in ("SystemExit", "KeyboardInterrupt")


def test_a_name_of_the_standard_library(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "calendar.py").touch()
    _, error = fails(launcher, handlers={"file": str(tmp_path / "calendar.py")})
    assert "rename the file" in error["message"]


def test_a_name_that_is_taken(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "snakepen.py").touch()
    _, error = fails(launcher, handlers={"file": str(tmp_path / "snakepen.py")})
    assert "would replace the module 'snakepen' that is already imported" in error["message"]


@pytest.mark.parametrize(
    ("target", "kind", "says"),
    [
        ("math", "ValueError", "form"),
        ("math:nope", "AttributeError", "nope"),
        ("math:pi", "TypeError", "can't be called"),
        ("nowhere:f", "ModuleNotFoundError", "nowhere"),
    ],
)
def test_what_cant_be_exposed(launcher: Launcher, target: str, kind: str, says: str) -> None:
    stage, error = fails(launcher, expose={"f": target})
    assert (stage, error["type"]) == (f"expose of `{target}` as `f`", kind)
    assert says in error["message"]


def test_a_name_given_twice(launcher: Launcher, handlers: Handlers) -> None:
    stage, error = fails(launcher, handlers=handlers("@handler\ndef sqrt(): pass"), expose={"sqrt": "math:sqrt"})
    assert stage == "expose of `math:sqrt` as `sqrt`"
    assert "user_handlers.sqrt" in error["message"] and "math.sqrt" in error["message"]


# The decorator, without any worker.


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_handlers, "table", {})


def test_the_decorator_returns_the_function() -> None:
    def plain() -> int:
        return 1

    async def later() -> int:
        return 2

    assert snakepen.handler(plain) is plain
    assert snakepen.handler(name="x y")(later) is later
    assert _handlers.table == {"plain": plain, "x y": later}


def test_a_reloaded_function_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comes_again.py").write_text("import snakepen\n@snakepen.handler\ndef same(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "comes_again", raising=False)
    for load in (lambda: import_module("comes_again"), lambda: reload(sys.modules["comes_again"])):
        assert _handlers.table.get("same") is not load().same
        assert _handlers.table["same"] is sys.modules["comes_again"].same
    del sys.modules["comes_again"]
    assert import_module("comes_again").same is _handlers.table["same"]


def test_two_functions_of_one_name() -> None:
    @snakepen.handler(name="taken")
    def first() -> None: ...

    with pytest.raises(ValueError, match=r"'taken'.*\.first \(line \d+\) and .*\.second \(line \d+\)"):

        @snakepen.handler(name="taken")
        def second() -> None: ...


def test_a_function_defined_twice(launcher: Launcher, handlers: Handlers) -> None:
    stage, error = fails(launcher, handlers=handlers("@handler\ndef f(): return 1\n@handler\ndef f(): return 2\n"))
    assert (stage, error["type"]) == ("handlers", "ValueError")
    assert error["message"].startswith("two handlers are called 'f': user_handlers.f (line ")


WRAPPED = """
import functools
def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments): return ["timed", function(*arguments)]
    return wrapper
"""


def test_functions_that_are_wrapped(launcher: Launcher, handlers: Handlers) -> None:
    twice = "@handler\n@functools.lru_cache\ndef f(): return 1\n"
    stage, error = fails(launcher, handlers=handlers(WRAPPED + 2 * twice))
    assert (stage, error["type"]) == ("handlers", "ValueError")
    assert error["message"].startswith("two handlers are called 'f'")


def test_the_lines_of_wrapped_functions_are_told(launcher: Launcher, handlers: Handlers) -> None:
    twice = "@handler\n@timed\ndef f(): return 1\n"
    message = fails(launcher, handlers=handlers(WRAPPED + 2 * twice))[1]["message"]
    first, second = (line.partition(")")[0] for line in message.split("(line ")[1:])
    assert int(second) - int(first) == 3, message


def test_what_wraps_a_handler_may_be_exposed_by_its_name(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(
        handlers=handlers(WRAPPED + "@timed\n@handler\ndef f(): return 1\n"), expose={"f": "user_handlers:f"}
    )
    assert launcher.worker().call("f") == ["timed", 1]


def test_a_file_without_handlers(launcher: Launcher, handlers: Handlers) -> None:
    stage, error = fails(launcher, handlers=handlers("def f(): return 1\n"))
    assert (stage, error["type"]) == ("handlers", "ValueError")
    assert "user_handlers.py defines none: decorate functions with @snakepen.handler" in error["message"]


@pytest.mark.parametrize("wrong", [3, "name", int, object()])
def test_what_cant_be_decorated(wrong: Any) -> None:
    with pytest.raises(TypeError, match="decorates a function"):
        snakepen.handler(wrong)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\ud800"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        snakepen.handler(name=name)(lambda: None)


def test_current_outside_of_a_request() -> None:
    with pytest.raises(RuntimeError, match="outside of a request"):
        snakepen.current()
