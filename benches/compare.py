#!/usr/bin/env python3
"""Snakepen beside what a user would pick instead, in one run on one machine.

    python3 benches/compare.py [--quick] [--json FILE] [--only SYSTEM,...]

Builds our side, makes a virtual environment for the peers, has all systems do the same jobs in turn, and writes rows,
ratios, a table and plots into `benches/results/`. Needs Rust and CPython 3.10 to 3.13 with venv and pip. The first run
installs and builds for some minutes; after that `--quick` takes less than five. What is compared and what is not like
for like, the table says.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "compare"))

from harness.main import main

if __name__ == "__main__":
    sys.exit(main())
