# Passed to the interpreter with -c: parses on any Python 3, so that an old one gets a clear answer.
import sys

if sys.version_info < (3, 10) or sys.implementation.name != "cpython":
    sys.stderr.write(
        "snakepen needs CPython 3.10 or later, {} is {} {}\n".format(
            sys.executable, sys.implementation.name, ".".join(map(str, sys.version_info[:3]))
        )
    )
    sys.exit(96)

sys.path.insert(0, sys.argv[1])

if sys.argv[2] == "launcher":
    from snakepen._launcher import main
else:
    from snakepen._worker import main_fresh as main

main()
