"""sys.path, site, __main__, preload, and interpreters of a worker's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Launcher, Port

Handlers = Callable[[str], dict[str, str]]

LOOK = """
import os, sys
@handler
def look():
    main = sys.modules["__main__"]
    return {"path": sys.path, "main": sorted(set(vars(main)) - {"__builtins__"}), "name": main.__name__,
            "argv": sys.argv, "cwd": os.getcwd(), "no_bytecode": sys.dont_write_bytecode, "prefix": sys.prefix}
"""


@pytest.mark.parametrize("fresh", [False, True])
def test_import_path(tmp_path: Path, handlers: Handlers, fresh: bool) -> None:
    extra, named = tmp_path / "extra", tmp_path / "named"
    extra.mkdir()
    named.mkdir()
    launcher = Launcher(environment={"PYTHONPATH": f"{named}:", "PYTHONDONTWRITEBYTECODE": "1"}, cwd=extra)
    try:
        ready = launcher.configure(handlers=handlers(LOOK), paths=[str(extra)], fresh=fresh)
        assert ready["fresh"] is fresh
        seen = launcher.worker().call("look")
    finally:
        launcher.close()
    package = str(Path(__file__).parents[1])
    assert seen["path"][:4] == [str(tmp_path), str(extra), str(named), package]
    assert "" not in seen["path"] and len(set(seen["path"])) == len(seen["path"])
    assert seen["name"] == "__main__"
    assert set(seen["main"]) <= {"__name__", "__doc__", "__package__", "__loader__", "__spec__"}
    assert (seen["argv"], seen["cwd"], seen["no_bytecode"]) == (["snakepen"], str(extra), True)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (site,) = home.glob("lib/python3*/site-packages")
    (site / "installed.py").write_text("HERE = 1\n")
    (site / "pushy.pth").write_text("import sys; sys.path.insert(0, '/pushy')\n")
    return home


@pytest.mark.parametrize("fresh", [False, True])
def test_a_virtual_environment(venv: Path, handlers: Handlers, fresh: bool) -> None:
    launcher = Launcher(str(venv / "bin/python"))
    try:
        launcher.configure(handlers=handlers("import installed" + LOOK), fresh=fresh)
        seen = launcher.worker().call("look")
    finally:
        launcher.close()
    assert seen["prefix"] == str(venv)
    assert seen["path"][1] == "/pushy"


def test_user_site_outside_of_an_environment(tmp_path: Path, handlers: Handlers) -> None:
    base = os.path.realpath(sys.executable)
    found = subprocess.run(
        [base, "-c", "import site; print(site.getusersitepackages())"],
        env={**os.environ, "PYTHONUSERBASE": str(tmp_path / "user")},
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(found.stdout.strip())
    site.mkdir(parents=True)
    for no_user_site in ("", "1"):
        launcher = Launcher(
            base, {"PYTHONUSERBASE": str(tmp_path / "user"), "PYTHONNOUSERSITE": no_user_site, "PYTHONPATH": ""}
        )
        try:
            launcher.configure(handlers=handlers(LOOK))
            assert (str(site) in launcher.worker().call("look")["path"]) is (no_user_site == "")
        finally:
            launcher.close()


def test_preloaded_modules_are_shared(launcher: Launcher, tmp_path: Path, handlers: Handlers) -> None:
    (tmp_path / "shared.py").write_text("import os\nPID = os.getpid()\n")
    launcher.configure(
        handlers=handlers(
            "import shared, gc\n@handler\ndef look(): return [shared.PID, gc.isenabled(), gc.get_freeze_count() > 0]"
        ),
        preload=["shared"],
    )
    for slot in range(2):
        assert launcher.worker(slot).call("look") == [launcher.process.pid, True, True]


def test_a_preloaded_handler_file_is_used_as_it_is(launcher: Launcher, handlers: Handlers) -> None:
    file = handlers("import os\nPID = os.getpid()\n@handler\ndef pid(): return PID")
    launcher.configure(handlers=file, preload=["user_handlers"])
    assert launcher.worker().call("pid") == launcher.process.pid


def test_threads_make_workers_fresh(launcher: Launcher, tmp_path: Path, handlers: Handlers) -> None:
    (tmp_path / "threaded.py").write_text(
        "import os\nfrom threading import Event, Thread\nPID = os.getpid()\n"
        "Thread(target=Event().wait, daemon=True).start()\n"
    )
    ready = launcher.configure(
        handlers=handlers("import sys, threaded\n@handler\ndef pid(): return threaded.PID"), preload=["threaded"]
    )
    assert ready["fresh"] is True and len(ready["threads"]) == 1
    port = launcher.worker()
    assert port.call("pid") == port.pid
    port.leave()
    assert launcher.hear() == {"op": "exited", "pid": port.pid, "code": 0, "signal": None}


def test_a_fresh_worker_whose_preload_fails(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert launcher.configure(paths=[str(tmp_path)], preload=["broken"], fresh=True)["op"] == "ready"
    port = launcher.spawn()
    frame = port.receive()
    assert (frame.name, "ZeroDivisionError" in str(frame.json)) == ("preload of `broken`", True)
    assert launcher.hear()["code"] == 1


def test_a_fresh_worker_has_only_its_own_descriptors(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers("@handler\ndef f(): pass"), fresh=True)
    ports: list[Port] = [launcher.worker(slot) for slot in range(2)]
    for port in ports:
        assert len(port.descriptors()) == 7
        assert os.getpgid(port.pid) == port.pid
