"""Studies under random kills: is every trial accounted for exactly once, and is what they find the same?

    python -m benchmarks.chaos --rounds 20

Each round is a study of 40 cheap trials on a Ray cluster of two nodes, all of it on this machine. While it runs,
workers, the driver and a node are killed at random (SIGKILL); a driver is launched again, and a node that was lost is
replaced by a new one. All trials fill the space, so that what is proposed does not depend on who ends first, and what
a trial finds depends on its shape and seed alone: the study must come to what an undisturbed one comes to.

A trial counts as lost if it did not complete, and as doubled if it was run from its beginning more than once although
its first step had been told, or if two trials are of one shape.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil
import yaml
from ray.cluster_utils import Cluster

from benchmarks import cheap_trainer
from benchmarks.common.record import Claim, current_commit, markdown, write

STEPS, STEP_SECONDS = 6, 0.1
NODES, NODE_CPUS = 2, 2
# Seconds between two kills.
PAUSE = (2.0, 6.0)
KINDS = ("worker", "driver", "node")
MOST = {"worker": 6, "driver": 3, "node": 1}
PATIENCE_SECONDS = 600.0


@dataclass
class Round:
    """What one study came to.

    Attributes:
        trials: Index to shape and J, of trials that completed.
        steps: ``trial seed step`` to how often it was made.
        kills: Kind to how many.
        launches: Of the driver.
        wall_seconds: From the first launch to the last one's end.
    """

    trials: dict[int, tuple[str, float]]
    steps: Counter[str]
    kills: Counter[str] = field(default_factory=Counter)
    launches: int = 1
    wall_seconds: float = 0.0

    def lost(self, planned: int) -> int:
        """Return the trials that did not complete."""
        return planned - len(self.trials)

    def doubled(self) -> int:
        """Return the trials that ran twice, or are another one's twin."""
        first = [name for name, count in self.steps.items() if name.split()[2] == "0" and count > 1]
        # A kill between a step and the note of it makes that one step again; whoever began anew made the second, too.
        again = [name for name in first if self.steps[" ".join([*name.split()[:2], "1"])] > 1]
        shapes = Counter(shape for shape, _ in self.trials.values())
        return len(again) + sum(count - 1 for count in shapes.values())


class Chaos:
    """One study on a cluster of its own.

    Args:
        place: An empty folder.
        trials: Of the study.
        seed: Decides what is killed when.
        kinds: What may be killed.
    """

    def __init__(self, place: Path, trials: int, seed: int, kinds: tuple[str, ...] = KINDS) -> None:
        self._place, self._trials, self._kinds = place, trials, kinds
        self._random, self._left = random.Random(seed), {kind: MOST[kind] for kind in kinds}
        self._log = place / "steps.log"
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._nodes = [self._cluster.add_node(num_cpus=NODE_CPUS) for _ in range(NODES)]
        self._config = place / "study.yaml"
        self._config.write_text(yaml.safe_dump(self._values()))

    def _values(self) -> dict[str, Any]:
        options = {"seconds": STEP_SECONDS, "log": str(self._log)}
        return {
            "name": "chaos",
            "trainer": {"function": f"{cheap_trainer.__file__}:train", "options": options},
            "ppo": {"steps": STEPS},
            "search": {"trials": self._trials, "sobol_trials": self._trials, "seeds": [0]},
            "confirm": {"seeds": []},
            "executor": {
                "slots": NODES * NODE_CPUS,
                "address": self._cluster.address,
                # What is killed at random is not the trial's fault.
                "retries": 100,
            },
        }

    def run(self) -> Round:
        """Run the study to its end."""
        kills: Counter[str] = Counter()
        launches, began, driver = 1, time.monotonic(), self._launch()
        while True:
            try:
                code = driver.wait(self._random.uniform(*PAUSE))
            except subprocess.TimeoutExpired:
                code = None
            if code == 0:
                break
            if time.monotonic() - began > PATIENCE_SECONDS:
                driver.kill()
                raise RuntimeError(f"the study did not end: {self._place}")
            if code is None:
                kind = self._kill(driver)
                kills.update([kind] if kind else [])
                code = driver.poll()
            if code is not None:
                # Killed, or refused while the dead one's workers are still there.
                driver, launches = self._launch(), launches + 1
        return Round(self._found(), self._made(), kills, launches, time.monotonic() - began)

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self._place / "driver.log").open("ab") as said:
            command = [sys.executable, "-m", "pipeline.cli", "launch", str(self._config)]
            command += ["--studies", str(self._place / "studies")]
            return subprocess.Popen(command, stdout=said, stderr=said, cwd=Path(__file__).parents[1])

    def _kill(self, driver: subprocess.Popen[bytes]) -> str:
        """Kill something, and return what; nothing before the study has begun its trials."""
        possible = [kind for kind in self._kinds if self._left[kind] > 0]
        if not possible or not self._log.exists():
            return ""
        kind = self._random.choice(possible)
        if kind == "driver":
            driver.kill()
            driver.wait()
        elif kind == "worker":
            recent = {int(line.split()[-1]) for line in self._log.read_text().splitlines()[-8:]}
            alive = sorted(pid for pid in recent if psutil.pid_exists(pid))
            if not alive:
                return ""
            os.kill(self._random.choice(alive), signal.SIGKILL)
        else:
            lost = self._nodes.pop(self._random.randrange(len(self._nodes)))
            self._cluster.remove_node(lost, allow_graceful=False)
            self._nodes.append(self._cluster.add_node(num_cpus=NODE_CPUS))
        self._left[kind] -= 1
        return kind

    def _found(self) -> dict[int, tuple[str, float]]:
        command = [sys.executable, "-m", "pipeline.cli", "status", str(self._place / "studies" / "chaos"), "--json"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        rows = [row for row in json.loads(told.stdout) if row["state"] == "completed"]
        return {row["index"]: (json.dumps(row["shape"], sort_keys=True), row["J"]) for row in rows}

    def _made(self) -> Counter[str]:
        lines = self._log.read_text().splitlines()
        return Counter(" ".join(line.split()[:3]) for line in lines)

    def close(self) -> None:
        """End the cluster."""
        self._cluster.shutdown()


def one_round(trials: int, seed: int, kinds: tuple[str, ...] = KINDS) -> Round:
    """Return what a study came to while things of these kinds were killed."""
    # It stays where the study did not end: whoever asks why needs its folder and what its drivers said.
    place = Path(tempfile.mkdtemp(prefix="shapetune-chaos-"))
    chaos = Chaos(place, trials, seed, kinds)
    try:
        found = chaos.run()
    finally:
        chaos.close()
    shutil.rmtree(place)
    return found


def main() -> None:
    """Run all rounds and write ``results/chaos.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    options, commit = parser.parse_args(), current_commit()
    quiet = one_round(options.trials, 0, ())
    rounds = []
    for seed in range(options.rounds):
        rounds.append(one_round(options.trials, seed))
        said = {"round": seed, "kills": dict(rounds[-1].kills), "lost": rounds[-1].lost(options.trials)}
        print(json.dumps({**said, "doubled": rounds[-1].doubled()}), file=sys.stderr, flush=True)
    lost = sum(each.lost(options.trials) for each in rounds)
    doubled = sum(each.doubled() for each in rounds)
    changed = sum(each.trials != quiet.trials for each in rounds)
    kills = sum((each.kills for each in rounds), Counter())
    steps = sum(sum(each.steps.values()) for each in rounds)
    again = steps - len(rounds) * options.trials * STEPS
    rows = [
        ("rounds, and trials in each", f"{len(rounds)}, {options.trials}"),
        ("kills of workers, drivers, nodes", ", ".join(str(kills[kind]) for kind in KINDS)),
        ("trials lost", lost),
        ("trials doubled", doubled),
        ("studies that found something else than the undisturbed one", changed),
        ("steps made again, of all", f"{again} of {steps}"),
    ]
    names = {"trials_lost": lost, "trials_doubled": doubled, "studies_changed": changed, "steps_made_again": again}
    claims = [Claim(f"chaos.{name}", value, value, value, len(rounds)) for name, value in names.items()]
    details = {
        "rounds": [
            {"kills": dict(each.kills), "launches": each.launches, "wall_seconds": round(each.wall_seconds, 1)}
            for each in rounds
        ],
        "undisturbed_wall_seconds": round(quiet.wall_seconds, 1),
    }
    write("chaos", claims, markdown(("", ""), rows), details, commit)


if __name__ == "__main__":
    main()
