"""A stand-in for vLLM's server: the same few addresses, over a policy that it reads from the folder it is told.

Each response is sampled alone, by the plain library. It can be made to go wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import torch
from transformers import LlamaForCausalLM


@dataclass
class SamplingServer:
    """What the server does and has seen.

    Attributes:
        url: Where it answers.
        fault: How it goes wrong: ``""``, ``locked`` (takes no weights), ``broken``, ``mute`` (no log-probabilities),
            ``hot`` (another temperature), ``deaf`` (keeps its first weights).
        requests: Bodies of what it was asked for, by address.
        policy: What it samples from.
    """

    url: str = ""
    fault: str = ""
    requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    policy: LlamaForCausalLM | None = None
    lock: Lock = field(default_factory=Lock)

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body."""
        self.requests.setdefault(path, []).append(asked)
        if path == "/v1/models":
            return 200, {"data": [{"id": "served"}]}
        if path == "/collective_rpc":
            if self.fault == "locked":
                return 404, {"detail": "Not Found"}
            if self.policy is None or self.fault != "deaf":
                self.policy = LlamaForCausalLM.from_pretrained(asked["kwargs"]["weights_path"]).eval()
            return 200, {"results": [None]}
        if path == "/v1/completions":
            return (500, {"error": "the engine is dead"}) if self.fault == "broken" else (200, self._completion(asked))
        return 200, None

    def _completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self.policy is not None
        temperature = asked["temperature"] * (3 if self.fault == "hot" else 1)
        generator = torch.Generator().manual_seed(asked["seed"])
        ids, tokens, said = list(asked["prompt"]), [], []
        while len(tokens) < asked["max_tokens"] and (not tokens or tokens[-1] not in asked["stop_token_ids"]):
            with torch.no_grad():
                logits = self.policy(input_ids=torch.tensor([ids + tokens])).logits[0, -1] / temperature
            if len(tokens) < asked["min_tokens"]:
                logits[asked["stop_token_ids"]] = -torch.inf
            log_probs = logits.log_softmax(dim=-1)
            tokens.append(int(torch.multinomial(log_probs.exp(), 1, generator=generator)))
            said.append(float(log_probs[tokens[-1]]))
        logprobs = {"token_logprobs": [] if self.fault == "mute" else said}
        return {"choices": [{"token_ids": tokens, "logprobs": logprobs}]}


@contextmanager
def serving(fault: str = "") -> Iterator[SamplingServer]:
    """Yield a running server on loopback."""
    state = SamplingServer(fault=fault)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, asked: dict[str, Any]) -> None:
            with state.lock:
                status, body = state.answer(self.path, asked)
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
