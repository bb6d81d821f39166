"""DSPy programs that live in the session store, and run in any worker.

The functions here are handlers. The Rust side exposes them as "dspy.execute" and so on, or by hand:
`.expose("dspy.execute", "snakepen.contrib.dspy:execute")`.

Nothing is kept in a worker that it couldn't make again: a program is its definition and its state (demos, instructions,
what an optimizer has changed) in the store, built where it is called, and kept there until its version is another.

Scope. Programs and language models belong to a session, or to all ("global"). Without `scope`, what is written goes to
the call's session if it has one, else it is global; what is read is looked for in the call's session first, then
globally. What a session changes without a scope is never global.

Language models. `configure_lm` stores what dspy.LM takes; secrets by the name of an environment variable only. Each
call reads it, so a change is in force at the next call of any worker. DSPy's own cache of answers is off: it ignores
the address and the key, so that it would give one session what another's endpoint has said. `"cache": true` turns it
on, with DSPy's directory (DSPY_CACHEDIR, else ~/.dspy_cache), which several workers can share. `dspy.configure` is not
used; handlers of your own may, as every call here brings its language model along.

ProgramOfThought needs Deno in the workers' environment, and Deno fetches Pyodide from the network when it first runs.

Importing DSPy takes about a second; `.preload(["dspy"])` does it once for all workers. It starts no threads.

Programs run in the handler's thread and end with its cancellation. A Module's own attributes are not state: what its
`forward` keeps in them stays in one worker, and ends with it.
"""

from __future__ import annotations

from ._errors import ConfigurationError, FieldError, NoSuchProgram, ProgramError, SignatureError
from ._handlers import configure_lm, create_program, delete, execute, history, info
from ._handlers import list_programs as list
from ._optimize import optimize

__all__ = [
    "ConfigurationError",
    "FieldError",
    "NoSuchProgram",
    "ProgramError",
    "SignatureError",
    "configure_lm",
    "create_program",
    "delete",
    "execute",
    "history",
    "info",
    "list",
    "optimize",
]
