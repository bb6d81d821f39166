"""The command line."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from . import environment, jobs, plot, report
from .measure import Run
from .ratios import ratios


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benches/compare.py", description="Snakepen beside what a user would pick instead."
    )
    parser.add_argument("--quick", action="store_true", help="fewer jobs, shorter rounds; less than five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows go besides")
    parser.add_argument("--only", metavar="SYSTEM,...", help=f"of {', '.join(jobs.SYSTEMS)}")
    options = parser.parse_args()
    systems = jobs.SYSTEMS
    if options.only:
        systems = tuple(options.only.split(","))
        unknown = set(systems) - set(jobs.SYSTEMS)
        if unknown:
            parser.error(f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(jobs.SYSTEMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    missing = environment.prepare()
    present = tuple(system for system in systems if system not in missing)
    machine = environment.describe()
    rounds, seconds = (5, 0.15) if options.quick else (7, 0.5)
    run = Run(present, rounds, seconds, options.quick, environment.calibrate())
    run.failures += [
        {"system": name, "job": "all", "error": error} for name, error in missing.items() if name in systems
    ]
    run.all()

    found = ratios(run)
    results = environment.COMPARE.parent / "results"
    results.mkdir(exist_ok=True)
    command = " ".join(["python3 benches/compare.py", *sys.argv[1:]])
    rows = json.dumps(run.rows, indent=1) + "\n"
    (results / "compare.json").write_text(rows)
    (results / "ratios.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = report.markdown(run, found, machine, command)
    (results / "compare.md").write_text(text)
    plot.write(run.rows, results)
    if options.json:
        options.json.write_text(rows)
    print(text)
    ours = [one for one in run.failures if one["system"] in ("snakepen", "snakepen-prefetch", "limit")]
    return 1 if ours else 0
