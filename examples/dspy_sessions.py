"""What the programs of the example use: a module of its own, a tool, and a metric."""

from __future__ import annotations

from typing import Any

import dspy  # pyright: ignore


class Triage(dspy.Module):
    """Two questions to the model: what is it about, and what is answered?"""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict("ticket -> topic, urgent: bool")
        self.reply = dspy.ChainOfThought("ticket, topic -> reply")

    def forward(self, ticket: str) -> Any:
        found = self.classify(ticket=ticket)
        reply = self.reply(ticket=ticket, topic=found.topic).reply
        return dspy.Prediction(topic=found.topic, urgent=found.urgent, reply=reply)


def stock(item: str) -> int:
    """How many of an item are there."""
    return {"pen": 12, "snake": 1}.get(item, 0)


def is_loud(example: Any, prediction: Any, trace: Any = None) -> bool:
    return prediction.answer.startswith(example.question.upper())
