"""A worker as one writes it in an afternoon: a JSON line in, a JSON line out."""

import importlib
import json
import sys

functions = vars(importlib.import_module(sys.argv[1]))

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"result": functions[request["function"]](*request["args"])}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
