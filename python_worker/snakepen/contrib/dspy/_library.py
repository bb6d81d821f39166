"""DSPy itself, or why it isn't there. The only file that imports it; it has no types, so here it becomes Any."""

from __future__ import annotations

import os
import sys
from typing import Any

# LiteLLM, to which DSPy turns for some providers, otherwise asks the network for a table of prices when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

try:
    import dspy as _dspy  # pyright: ignore
    from dspy.clients import base_lm as _base_lm  # pyright: ignore
    from dspy.utils import DummyLM as _DummyLM  # pyright: ignore
except ModuleNotFoundError as error:
    if error.name != "dspy":
        raise
    raise ImportError(
        "snakepen.contrib.dspy needs DSPy in the workers' environment. Install it: "
        f"{sys.executable} -m pip install dspy"
    ) from None

dspy: Any = _dspy
DummyLM: Any = _DummyLM
version: str = dspy.__version__


def global_history() -> Any:
    """DSPy's list of all LM calls of this process."""
    return getattr(_base_lm, "GLOBAL_HISTORY", [])
