"""The launcher's protocol, and what becomes of its children."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import BOOTSTRAP, PACKAGE, Launcher, Port, alive, config, descriptors, until, wait_gone
from sandbox import SCHED_SETSCHEDULER, SECCOMP_ALLOW, SECCOMP_KILL, SECCOMP_REFUSE, sandbox


def test_ready_says_what_it_is(launcher: Launcher) -> None:
    ready = launcher.configure()
    assert ready == {
        "op": "ready",
        "version": 1,
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "fresh": False,
        "threads": [],
    }
    launcher.say({"op": "ping", "token": 2**63})
    assert launcher.hear() == {"op": "pong", "token": 2**63}
    assert launcher.leave() == 0


def test_a_failed_preload_says_why(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    failed = launcher.configure(paths=[str(tmp_path)], preload=["json", "broken"])
    assert (failed["op"], failed["stage"], failed["module"]) == ("failed", "preload", "broken")
    error = failed["error"]
    assert error["type"] == "ZeroDivisionError"
    assert error["traceback"].splitlines()[1].endswith('broken.py", line 1, in <module>')
    assert launcher.process.wait(10) == 1


def test_exit_in_a_preloaded_module_is_a_failure(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('x' * 100_000 + '\\udc00')\n")
    failed = launcher.configure(paths=[str(tmp_path)], preload=["leaving"])
    assert failed["error"]["type"] == "SystemExit"
    assert "bytes cut" in failed["error"]["message"]
    assert launcher.process.wait(10) == 1


def test_a_bad_site_is_a_failure(tmp_path: Path) -> None:
    # A virtual environment with a sitecustomize that fails: user code that runs before any other.
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (site,) = home.glob("lib/python3*/site-packages")
    (site / "sitecustomize.py").write_text("raise SystemExit(3)\n")
    launcher = Launcher(str(home / "bin/python"))
    try:
        failed = launcher.configure()
        assert (failed["op"], failed["stage"], failed["error"]["type"]) == ("failed", "site", "SystemExit")
    finally:
        launcher.close()


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"op": "dance"}, "unknown operation"),
        ({"op": "ping"}, "token"),
        ([1], "isn't an object"),
        ({"op": "spawn", "token": 1, "slot": 0}, "worker"),
    ],
)
def test_a_bad_message_ends_it_and_its_workers(launcher: Launcher, message: Any, says: str) -> None:
    launcher.configure()
    port = launcher.worker()
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(6)]
    launcher.say(message, fds)
    for fd in fds:
        os.close(fd)
    assert launcher.process.wait(10) == 1
    assert says in launcher.errors()
    wait_gone(port.pidfd)


def test_another_version_is_refused(launcher: Launcher) -> None:
    launcher.say({"op": "configure", "version": 2, "config": config()})
    assert launcher.process.wait(10) == 1
    assert "version 1" in launcher.errors()


def test_an_incomplete_configuration_is_a_failure(launcher: Launcher) -> None:
    launcher.say({"op": "configure", "version": 1, "config": {"pool": "x"}})
    failed = launcher.hear()
    assert (failed["stage"], failed["error"]["type"]) == ("configure", "KeyError")


def test_a_spawn_that_fails_leaves_it_alive(launcher: Launcher) -> None:
    launcher.configure()
    before = len(os.listdir(f"/proc/{launcher.process.pid}/fd"))
    launcher.say({"op": "spawn", "token": 7, "slot": 0, "epoch": 1, "worker": "w"}, [1, 2])
    answer = launcher.hear()
    assert (answer["op"], answer["token"]) == ("spawn_failed", 7)
    assert "2 descriptors" in answer["message"]
    launcher.say({"op": "ping", "token": 8})
    assert launcher.hear()["op"] == "pong"
    assert len(os.listdir(f"/proc/{launcher.process.pid}/fd")) == before
    launcher.worker().ping(1)


def _policies_can_be_chosen() -> bool:
    try:
        os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0))
    except (AttributeError, OSError):
        return False
    return True


@pytest.mark.skipif(not _policies_can_be_chosen(), reason="this C library can't choose a policy")
@pytest.mark.parametrize(
    ("of_the_host", "of_the_worker"),
    [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_BATCH", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_workers_give_way_to_a_host_of_the_default_policy(of_the_host: str, of_the_worker: str, fresh: bool) -> None:
    launcher = Launcher(before=lambda: os.sched_setscheduler(0, getattr(os, of_the_host), os.sched_param(0)))
    try:
        launcher.configure(fresh=fresh)
        worker = launcher.worker()
        assert os.sched_getscheduler(worker.pid) == getattr(os, of_the_worker)
        assert os.sched_getscheduler(launcher.process.pid) == getattr(os, of_the_host)
    finally:
        launcher.close()


@pytest.mark.skipif(platform.machine() not in SCHED_SETSCHEDULER, reason="the call's number isn't known here")
@pytest.mark.parametrize("preloaded", [False, True])
def test_user_code_may_shut_itself_into_a_sandbox(tmp_path: Path, preloaded: bool) -> None:
    (tmp_path / "shut.py").write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
        "import platform, sandbox\n"
        "sandbox.sandbox(sandbox.SCHED_SETSCHEDULER[platform.machine()], sandbox.SECCOMP_KILL)\n"
    )
    handlers = tmp_path / "handlers_of_it.py"
    handlers.write_text("import shut, snakepen\n@snakepen.handler\ndef one(): return 1\n")
    launcher = Launcher()
    try:
        launcher.configure(
            handlers={"file": str(handlers)}, paths=[str(tmp_path)], preload=["shut"] if preloaded else []
        )
        assert launcher.worker().call("one") == 1
    finally:
        launcher.close()


@pytest.mark.skipif(platform.machine() not in SCHED_SETSCHEDULER, reason="the call's number isn't known here")
@pytest.mark.parametrize("verdict", [SECCOMP_KILL, SECCOMP_REFUSE, SECCOMP_ALLOW])
def test_in_a_sandbox_no_policy_is_asked_for(verdict: int) -> None:
    launcher = Launcher(before=lambda: sandbox(SCHED_SETSCHEDULER[platform.machine()], verdict))
    try:
        assert launcher.configure()["op"] == "ready"
        worker = launcher.worker()
        assert os.sched_getscheduler(worker.pid) == os.SCHED_OTHER
        worker.leave()
    finally:
        launcher.close()


def test_ends_are_reported_with_their_cause(launcher: Launcher) -> None:
    launcher.configure()
    first, second, third = (launcher.worker(slot) for slot in range(3))
    os.kill(first.pid, signal.SIGSEGV)
    assert launcher.hear() == {"op": "exited", "pid": first.pid, "code": None, "signal": signal.SIGSEGV}
    second.leave()
    assert launcher.hear() == {"op": "exited", "pid": second.pid, "code": 0, "signal": None}
    os.kill(third.pid, signal.SIGTERM)
    assert launcher.hear() == {"op": "exited", "pid": third.pid, "code": None, "signal": signal.SIGTERM}


def test_an_end_takes_the_group_with_it(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> None:
    launcher.configure(
        handlers=handlers(
            "import subprocess\n@handler\ndef start():\n return subprocess.Popen(['sleep', '1000']).pid\n"
        )
    )
    port = launcher.worker()
    child = os.pidfd_open(port.call("start"))
    os.kill(port.pid, signal.SIGKILL)
    assert launcher.hear()["signal"] == signal.SIGKILL
    wait_gone(child)
    os.close(child)


def test_the_end_of_the_host_ends_everything(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> None:
    launcher.configure(
        handlers=handlers(
            "import subprocess, time\n@handler\ndef busy():\n"
            " print(subprocess.Popen(['sleep', '1000']).pid, flush=True)\n time.sleep(1000)\n"
        )
    )
    port = launcher.worker()
    port.start_call("busy")
    child = os.pidfd_open(int(port.read_line(port.stdout)))
    launcher.control.close()
    assert launcher.process.wait(10) == -signal.SIGKILL  # with its own group
    for pidfd in (port.pidfd, child):
        wait_gone(pidfd)
    os.close(child)


def test_the_end_of_the_host_ends_what_preloaded_modules_started(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(
        "from subprocess import Popen\nprint(Popen(['sleep', '1000'], stdout=-3, stderr=-3).pid, flush=True)\n"
    )
    launcher.configure(paths=[str(tmp_path)], preload=["starts"])
    assert launcher.process.stdout is not None
    child = os.pidfd_open(int(launcher.process.stdout.readline()))
    launcher.control.close()
    wait_gone(child)
    os.close(child)


def test_workers_dont_outlive_a_killed_launcher(launcher: Launcher) -> None:
    launcher.configure()
    ports = [launcher.worker(slot) for slot in range(2)]
    launcher.process.kill()
    for port in ports:
        wait_gone(port.pidfd)


def test_signals_from_a_terminal_are_ignored(launcher: Launcher) -> None:
    launcher.configure()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(launcher.process.pid, number)
    launcher.worker().ping(1)


def test_children_of_preloaded_modules_are_reaped_in_silence(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(
        "from subprocess import Popen\nP = [Popen(['true']) for _ in range(3)]\nS = Popen(['sleep', '1000'])\n"
    )
    launcher.configure(paths=[str(tmp_path)], preload=["starts"])
    own = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children")
    until(lambda: len(own.read_text().split()) == 1, "the three aren't reaped")
    (sleeper,) = map(int, own.read_text().split())
    launcher.say({"op": "ping", "token": 1})
    assert launcher.hear()["op"] == "pong"
    os.kill(sleeper, signal.SIGKILL)
    until(lambda: not alive(sleeper), "the sleeper lives")


def test_exit_runs_what_preloaded_modules_registered(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "registers.py").write_text("import atexit, os\natexit.register(lambda: print('bye', os.getpid()))\n")
    launcher.configure(paths=[str(tmp_path)], preload=["registers"])
    port = launcher.worker()
    port.leave()
    assert port.text(port.stdout) == ""
    assert launcher.hear()["op"] == "exited"
    assert launcher.leave() == 0
    assert launcher.process.stdout is not None
    assert launcher.process.stdout.read().decode() == f"bye {launcher.process.pid}\n"


def test_the_descriptors_of_the_host_are_not_passed_on() -> None:
    leak, end = os.pipe()
    os.set_inheritable(leak, True)
    launcher = Launcher(inherits=True)
    try:
        launcher.configure()
        worker = launcher.worker()
        name = os.readlink(f"/proc/self/fd/{leak}")
        for pid in (launcher.process.pid, worker.pid):
            assert name not in descriptors(pid).values()
    finally:
        launcher.close()
        os.close(leak)
        os.close(end)


def test_a_launcher_without_room_for_descriptors_goes_on(launcher: Launcher) -> None:
    launcher.configure()
    first = launcher.worker()
    # Once it answers, it has closed its copies of the first worker's descriptors.
    launcher.say({"op": "ping", "token": 8})
    assert launcher.hear() == {"op": "pong", "token": 8}
    pid = launcher.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(descriptors(pid)) + 2, limits[1]))
    port = Port()
    launcher.say({"op": "spawn", "token": 9, "slot": 1, "epoch": 1, "worker": "w"}, port.far_ends())
    answer = launcher.hear()
    assert (answer["op"], answer["token"]) == ("spawn_failed", 9)
    port.close_far_ends()
    port.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    launcher.worker(1).ping(1)
    first.ping(1)


def test_an_old_interpreter_is_refused() -> None:
    old = next(
        (path for path in (shutil.which(f"python3.{minor}") for minor in (9, 8, 7, 6)) if path and _runs(path)), None
    )
    if old is None:
        pytest.skip("no Python below 3.10 here")
    done = subprocess.run([old, "-I", "-S", "-c", BOOTSTRAP, str(PACKAGE), "launcher"], capture_output=True, text=True)
    assert done.returncode == 96
    assert done.stderr.startswith("snakepen needs CPython 3.10 or later, ") and done.stderr.count("\n") == 1


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def test_messages_stay_within_a_packet(launcher: Launcher, tmp_path: Path) -> None:
    text = (
        "def f(n):\n  try: f(n - 1) if n else 1 / 0\n  except Exception as e: raise ValueError('\\0' * 60_000) from e\n"
    )
    (tmp_path / "chain.py").write_text(text + "f(30)\n")
    failed = launcher.configure(paths=[str(tmp_path)], preload=["chain"])
    assert failed["error"]["type"] == "ValueError" and len(json.dumps(failed)) < 100_000
