"""A reward model behind an address: a server of rules, and a run of PPO that asks it.

    python examples/reward_server.py

The server is 20 lines of Python's own library. It speaks the interface ``json``: prompts and responses in, scores out.
Any server may stand in its place, on any machine and in any language: name it as ``reward_model: {url: ...}``.
This script takes 12 s on two cores, and prints

    the server at http://127.0.0.1:37951/score scores ' good.' 3.0
    step 2 of 20   J -0.668   reward -0.656   KL   0.2 nats
    …
    1.00 prefix, lambda 0.95, seed 0, on held-out prompts
    training       J  reward  KL, nats  gold  tokens  entropy, nats  distinct pairs
    before    -0.222  -0.222     0.000     -   7.889          3.361           0.984
    after      0.066   0.333     5.355     -   8.778          2.859           0.900
    183 requests
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from reward_function import CONFIG, rules


class Judge(BaseHTTPRequestHandler):
    """Answers ``{"prompts": [...], "responses": [...]}`` with ``{"scores": [...]}``."""

    asked = 0

    def do_POST(self) -> None:
        """Answer a request."""
        Judge.asked += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"scores": rules(body["prompts"], body["responses"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Say nothing of each request."""


def main() -> dict[str, float]:
    """Serve, train a policy for what is served, and return its mean score, before and after."""
    import tiny

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/score"
    first = requests.post(url, json={"prompts": ["the film is"], "responses": [" good."]}, timeout=60).json()
    print(f"the server at {url} scores ' good.' {first['scores'][0]}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        policy, run = Path(temporary) / "policy", Path(temporary) / "run"
        tiny.save_policy(policy)
        judge = f"task.reward_model={{url: {url}, mean: 2.0}}"
        changes = ["--set", f"task.policy.model={policy}", "--set", judge]
        command = [sys.executable, "-m", "pipeline", "train", str(CONFIG), "--weight", "prefix=1", *changes]
        subprocess.run([*command, "-o", str(run)], check=True)
        result = json.loads((run / "result.json").read_text())
    print(f"{Judge.asked} requests")
    return {"before": result["untrained"]["reward"], "after": result["evaluation"]["reward"]}


if __name__ == "__main__":
    main()
