"""What has to be there first: our drivers, the peers, and what machine this is."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMPARE = ROOT / "benches" / "compare"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "compare"
PYTHON = TARGET / "venv" / "bin" / "python"

PEERS = ("loky==3.7.0", "mosec==0.9.8", "numpy==2.4.6", "pandas==3.1.1", "ray==2.60.0")
OLDER_PEERS = ("loky", "mosec", "numpy", "pandas", "ray")
"""Where the pinned ones don't install: other versions of Python have others."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prepare() -> dict[str, str]:
    """Builds and installs; returns what could not be had, by system."""
    missing: dict[str, str] = {}
    if not PYTHON.exists():
        say(f"making {PYTHON.parents[1]}")
        subprocess.run([sys.executable, "-m", "venv", str(PYTHON.parents[1])], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, *PEERS]).returncode:
        for peer in OLDER_PEERS:
            if subprocess.run([*pip, peer]).returncode:
                missing[peer] = "it does not install here"
    if missing.keys() & {"numpy", "pandas"}:
        raise SystemExit("NumPy and Pandas are needed, and do not install")
    say("building our side")
    subprocess.run(
        ["cargo", "build", "--locked", "--release", "--bench", "compare_driver", "--target-dir", str(TARGET / "cargo")],
        cwd=ROOT, check=True,
    )  # fmt: skip
    say("building the embedded interpreter")
    built = subprocess.run(
        ["cargo", "build", "--locked", "--release", "--target-dir", str(TARGET / "pyo3")],
        cwd=COMPARE / "pyo3", env={**os.environ, "PYO3_PYTHON": str(PYTHON)},
    )  # fmt: skip
    if built.returncode:
        missing["pyo3"] = "it does not build here: it needs the shared library of this Python"
    return missing


def command(system: str) -> tuple[list[str], dict[str, str]]:
    """How the driver of a system is started, and what its environment has besides."""
    if system in ("snakepen", "snakepen-prefetch", "limit", "naive", "mosec"):
        drivers = (TARGET / "cargo" / "release" / "deps").glob("compare_driver-*")
        driver = max((path for path in drivers if not path.suffix), key=lambda path: path.stat().st_mtime)
        path = f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"
        return [str(driver), system.partition("-")[0]], {"PATH": path}
    if system == "pyo3":
        libraries = ask("import sysconfig; print(sysconfig.get_config_var('LIBDIR'))")
        packages = ask("import sysconfig; print(sysconfig.get_path('purelib'))")
        found = {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": packages}
        return [str(TARGET / "pyo3" / "release" / "compare_pyo3")], found
    if system == "ray":
        return [str(PYTHON), str(COMPARE / "peers" / "ray_actors.py")], {}
    return [str(PYTHON), str(COMPARE / "peers" / "pools.py"), system], {}


def ask(program: str) -> str:
    """What the peers' interpreter prints."""
    return subprocess.run([str(PYTHON), "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def describe() -> list[str]:
    """The machine and the versions, a line each."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "src", "python_worker"], cwd=ROOT, capture_output=True, text=True
    )
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    versions = ask(
        "from importlib.metadata import version\n"
        "for name in ('loky', 'mosec', 'numpy', 'pandas', 'ray'):\n"
        "    try: print(name, version(name), end='; ')\n"
        "    except Exception: print(name, 'missing', end='; ')"
    )
    load = Path("/proc/loadavg").read_text().split()[0]
    return [
        f"commit {commit or 'unknown'}{' with changes' if changed.stdout else ''}",
        f"{os.cpu_count()} cores, {cpu}, Linux {platform.release()}; load average at the start {load}",
        f"{rustc}; CPython {ask('import platform; print(platform.python_version())')}; {versions.rstrip('; ')}",
    ]


def calibrate() -> int:
    """The turns of the loop of `spin200us` that take 200 µs, at best, in this Python."""
    program = (
        f"import sys; sys.path.insert(0, {str(COMPARE / 'work')!r})\n"
        "import time, work\n"
        "def best(turns):\n"
        "    times = []\n"
        "    for _ in range(300):\n"
        "        begin = time.perf_counter(); work.spin(turns); times.append(time.perf_counter() - begin)\n"
        "    return min(times)\n"
        "print(round(4000 * 200e-6 / best(4000)))"
    )
    return int(ask(program))
