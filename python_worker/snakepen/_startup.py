"""From `-I -S` to an interpreter that finds the user's modules, and has imported some."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from . import _directory, _linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._config import Config


class StartupError(Exception):
    """`stage` failed because of `error`."""

    def __init__(self, stage: str, module: str | None, error: BaseException) -> None:
        super().__init__(f"{stage}: {error!r}")
        self.stage = stage
        self.module = module
        self.error = error


def line_buffer_output() -> None:
    """Text reaches Rust line by line, and no locale makes a print() fail."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # pyright: ignore
    _linux.line_buffer_c_output()


def flush_output() -> None:
    """What Python and C libraries have not written yet."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # a handler has put something of its own there
            pass
    _linux.flush_c_output()


def replace_main() -> None:
    """An empty `__main__`: pickle, joblib and multiprocessing look into it, and find nothing of ours."""
    sys.modules["__main__"] = type(sys)("__main__")
    sys.argv = ["snakepen"]


def set_up_imports(config: Config) -> None:
    """sys.path, and the virtual environment's site-packages with their .pth files, which are user code."""
    _directory.install()
    handlers = config.handlers
    first = [os.path.dirname(handlers["file"])] if handlers and "file" in handlers else []
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [*first, *config.paths, *(os.path.abspath(path) for path in named if path)]
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        sys.dont_write_bytecode = True
    try:
        import site

        # -I has turned it off, for the sake of scripts that run with somebody else's rights.
        if not _in_virtual_environment() and not os.environ.get("PYTHONNOUSERSITE"):
            site.ENABLE_USER_SITE = True
        site.main()
    except BaseException as error:
        raise StartupError("site", None, error) from error
    if first and sys.path[:1] != first:  # a .pth file may put itself before everything
        sys.path[:] = [*first, *(path for path in sys.path if path != first[0])]


def _in_virtual_environment() -> bool:
    directory = os.path.dirname(os.path.abspath(sys.executable))
    return any(os.path.isfile(os.path.join(place, "pyvenv.cfg")) for place in (directory, os.path.dirname(directory)))


def preload(modules: list[str]) -> None:
    for module in modules:
        try:
            import_module(module)
        except BaseException as error:
            raise StartupError("preload", module, error) from error
