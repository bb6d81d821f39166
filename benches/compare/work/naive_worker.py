"""Answers lines of JSON with lines of JSON."""

import json
import sys

import work

if "heavy" in sys.argv:
    import numpy  # noqa: F401  # pyright: ignore
    import pandas  # noqa: F401  # pyright: ignore

for line in sys.stdin:
    name, arguments = json.loads(line)
    result = getattr(work, name)(*arguments)
    if name == "stream":
        for item in result:
            print(json.dumps({"item": item, "last": False}), flush=True)
        result = None
    print(json.dumps({"result": result, "last": True}), flush=True)
