"""A language model that thinks nothing: an OpenAI-compatible server for loopback, of the standard library only.

Its answers follow from the prompt alone. It reads DSPy's chat format: which output fields are asked for, and the inputs
of the last message; each output is made from the inputs and the type that is asked for. So the same program gives the
same answer in every process and at any time, and a demo or an instruction more in the prompt shows in it: an answer
ends with "(N demos)" if the prompt has some.

    python dspy_stub.py [PORT]      prints the port, and serves until its standard input ends
"""

from __future__ import annotations

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zlib import crc32

FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]\n(.*?)(?=\n\[\[ ## |\n\nRespond with|\Z)", re.DOTALL)
ASKED = re.compile(r"`\[\[ ## (\w+) ## \]\]`(?: \(must be formatted as a valid Python ([^)]*)\))?")


def answer(messages: list[dict[str, Any]]) -> str:
    """The model's answer to a prompt in DSPy's chat format; to any other, its checksum."""
    last = _text(messages[-1])
    if "Respond with" not in last:
        return f"{crc32(last.encode()):08x}"
    question, _, request = last.rpartition("Respond with")
    inputs = {name: value.strip() for name, value in FIELD.findall(question)}
    demos = sum(message["role"] == "assistant" for message in messages)
    parts: list[str] = []
    for name, kind in ASKED.findall(request):
        if name != "completed":
            parts.append(f"[[ ## {name} ## ]]\n{_value(name, kind, inputs, demos)}")
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _value(name: str, kind: str, inputs: dict[str, str], demos: int) -> str:
    everything = " / ".join(inputs.values())
    if kind.startswith(("int", "float")):
        return str(crc32(everything.encode()) % 100)
    if kind.startswith("bool"):
        return str(crc32(everything.encode()) % 2 == 0)
    if kind.startswith("list"):
        return json.dumps(everything.split()[:3])
    if name == "reasoning":
        return f"I was asked about {[*inputs]}."
    return f"{everything.upper()}{f' ({demos} demos)' if demos else ''}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        length = int(self.headers["Content-Length"])
        data = self.rfile.read(length)
        if len(data) < length:  # its client was killed
            self.close_connection = True
            return
        body = json.loads(data)
        messages = body["messages"]
        server.stub.requests.append({"key": self.headers.get("Authorization"), **body})
        text = answer(messages)
        tokens = sum(len(_text(message).split()) for message in messages), len(text.split())
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        reply = {
            "id": f"stub-{crc32(json.dumps(messages).encode()):08x}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }
        self._send(200 if self.path.endswith("/chat/completions") else 404, reply)

    def _send(self, status: int, reply: dict[str, Any]) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Stub:
    """The server in a thread: `with Stub() as stub: stub.url`."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        self._server: Any = Server(("127.0.0.1", port), Handler)
        self._server.stub = self
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


if __name__ == "__main__":
    with Stub(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as stub:
        print(stub.port, flush=True)
        sys.stdin.read()
