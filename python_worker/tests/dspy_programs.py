"""What the tests of DSPy name as "dspy_programs:…"."""

from __future__ import annotations

from typing import Any

import dspy  # pyright: ignore
from pydantic import BaseModel

dspy: Any = dspy


class Person(BaseModel):
    name: str
    age: int


class Twice(dspy.Module):
    """Two predictors, one after the other."""

    def __init__(self, question: str = "question") -> None:
        super().__init__()
        self.first = dspy.ChainOfThought(f"{question} -> draft")
        self.second = dspy.Predict("draft -> answer")

    def forward(self, question: str) -> Any:
        draft = self.first(question=question).draft
        return dspy.Prediction(draft=draft, answer=self.second(draft=draft).answer)


class Sick(dspy.Module):
    def forward(self, kind: str) -> Any:
        if kind == "number":
            return 3
        raise KeyError(kind)


class OwnModel(dspy.Module):
    """Sets its language model in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.ask.lm = dspy.LM("openai/own", api_key="sk-literal", api_base="http://127.0.0.1:9/v1")

    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer=self.ask.lm.model)


NotAModule = dict


def population(city: str) -> int:
    """Inhabitants of a city."""
    return {"Berlin": 3_800_000, "Rome": 2_700_000}[city]


def finish() -> str:
    return ""


async def later() -> str:
    return ""


def in_capitals(example: Any, prediction: Any, trace: Any = None) -> bool:
    return prediction.answer == prediction.answer.upper()


def sick_metric(example: Any, prediction: Any, trace: Any = None) -> bool:
    raise RuntimeError("the metric is sick")


class Endless(dspy.Module):
    def forward(self, how: str) -> Any:
        print("in", flush=True)
        while True:
            if how == "tool":
                dspy.Tool(population)(city="Rome")
