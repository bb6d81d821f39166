from typing import Any

import dspy  # pyright: ignore

import snakepen


class Twice(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.ChainOfThought("question -> draft")
        self.second = dspy.Predict("draft -> answer")

    def forward(self, question: str) -> Any:
        draft = self.first(question=question).draft
        return dspy.Prediction(draft=draft, answer=self.second(draft=draft).answer)


class Endless(dspy.Module):
    def forward(self) -> Any:
        while True:
            pass


def population(city: str) -> int:
    return {"Rome": 2_700_000}[city]


@snakepen.handler
def tampered(id: str) -> None:
    """Makes its state one that doesn't fit."""
    programs = snakepen.session().programs
    program = programs.get(id)
    assert program is not None
    programs.update(id, state={"dspy": "1.2.3", "predictors": {}})
