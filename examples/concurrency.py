"""A handler that waits for a service, as for a language model: one worker has many such calls at once."""

from __future__ import annotations

import asyncio
import json

import snakepen


@snakepen.handler
async def ask(port: int, question: str) -> str:
    """One question over a connection of its own; the answer takes its time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(json.dumps({"question": question}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        return answer["answer"]
    finally:
        # Also where the caller has given up: the service hears of it.
        writer.close()


@snakepen.handler
def summarise(answers: list[str]) -> str:
    """A plain one, which has its worker to itself while it runs."""
    return f"{len(answers)} answers, {sum(map(len, answers))} letters"
