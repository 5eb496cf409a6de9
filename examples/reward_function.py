"""A reward function of your own: a program that checks rules, named in a config as ``reward_function.py:rules``.

    python examples/reward_function.py

It makes a tiny policy and trains it by ``shapetune train examples/reward_function.yaml --weight prefix=1``. With your
policy in that config, ``shapetune launch`` searches the best shape for the same rules.
This script takes 11 s on two cores, and prints

    3 of 4 rules kept by ' good.'
    4 of 4 rules kept by ' good, but slow.'
    1 of 4 rules kept by ' a a a a good'
    0 of 4 rules kept by ''
    step 2 of 20   J -0.668   reward -0.656   KL   0.2 nats
    …
    1.00 prefix, lambda 0.95, seed 0, on held-out prompts
    training       J  reward  KL, nats  gold  tokens  entropy, nats  distinct pairs
    before    -0.222  -0.222     0.000     -   7.889          3.361           0.984
    after      0.509   0.778     5.374     -   8.778          2.832           0.871
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

CONFIG = Path(__file__).with_suffix(".yaml")
TEXTS = (" good.", " good, but slow.", " a a a a good", "")


def rules(prompts: list[str], responses: list[str]) -> list[float]:
    """Return the score of each response: a point for each rule that it keeps. It may be empty, or cut off anywhere."""
    scores = []
    for response in responses:
        words = response.replace(".", " ").replace(",", " ").split()
        praises = "good" in words or "great" in words
        weighs = "but" in words
        repeats = any(word == following for word, following in pairwise(words))
        ends = response.endswith(".")
        scores.append(float(praises + weighs + (bool(words) and not repeats) + ends))
    return scores


def main() -> dict[str, float]:
    """Train a policy for the rules, and return its mean score on held-out prompts, before and after."""
    import tiny

    for text, score in zip(TEXTS, rules(["the film is"] * len(TEXTS), list(TEXTS)), strict=True):
        print(f"{score:.0f} of 4 rules kept by {text!r}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        policy, run = Path(temporary) / "policy", Path(temporary) / "run"
        tiny.save_policy(policy)
        command = [sys.executable, "-m", "pipeline", "train", str(CONFIG), "--weight", "prefix=1"]
        subprocess.run([*command, "--set", f"task.policy.model={policy}", "-o", str(run)], check=True)
        result = json.loads((run / "result.json").read_text())
    return {"before": result["untrained"]["reward"], "after": result["evaluation"]["reward"]}


if __name__ == "__main__":
    main()
