"""A reward server that can be told to fail, hang, answer nonsense or out of order; its scores are known."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# From a request's number to what happens to it; "" answers it.
Mishap = Callable[[int], str]


def score_of(text: str) -> float:
    """Return the score that the server gives a text."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(text)) % 997 / 100


@dataclass
class RewardServer:
    """What the server was asked, and what it does about it.

    Attributes:
        url: Its address.
        mishap: What happens to a request: ``status 500``, ``hang``, ``garbage``, ``short``, ``nan``.
        bodies: Of the requests, as they came.
        headers: Of the last one.
    """

    url: str = ""
    mishap: Mishap = lambda number: ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> int:
        """How many texts it was asked to score."""
        return sum(len(texts_of(body)) for body in self.bodies)


def texts_of(body: dict[str, Any]) -> list[str]:
    if "responses" in body:
        return [prompt + response for prompt, response in zip(body["prompts"], body["responses"], strict=True)]
    if "inputs" in body:
        return [each[0] for each in body["inputs"]]
    return list(body.get("input") or body["text"])


def answer_to(path: str, body: dict[str, Any]) -> Any:
    """Return what the server of a path answers; rows that carry their number come last first."""
    scores = [score_of(text) for text in texts_of(body)]
    if path == "/classify" and "input" in body:
        rows = [{"index": place, "label": "a", "probs": [score]} for place, score in enumerate(scores)]
        return {"data": rows[::-1]}
    if path == "/classify":
        return [{"embedding": [score]} for score in scores]
    if path == "/pooling":
        rows = [{"index": place, "data": [[0.0], [score]]} for place, score in enumerate(scores)]
        return {"data": rows[::-1]}
    if path == "/predict":
        return [[{"label": "bad", "score": 9.0}, {"label": "good", "score": score}] for score in scores]
    return {"scores": scores}


@contextmanager
def reward_server() -> Iterator[RewardServer]:
    """Serve on loopback while the block runs."""
    state = RewardServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = len(state.bodies)
            state.bodies.append(body)
            state.headers = dict(self.headers)
            self.answer(state.mishap(number), body)

        def answer(self, mishap: str, body: dict[str, Any]) -> None:
            if mishap.startswith("status"):
                self.send(int(mishap.split()[1]), b"busy")
            elif mishap == "hang":
                time.sleep(1.5)
            elif mishap == "garbage":
                self.send(200, b"<html>")
            else:
                found = answer_to(self.path, body)
                if mishap == "short":
                    found["scores"] = found["scores"][1:]
                if mishap == "nan":
                    found["scores"][0] = None
                self.send(200, json.dumps(found).encode())

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
