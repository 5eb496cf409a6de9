"""A study's folder as a search and a confirmation leave it, without any training."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from pipeline.config.load import parse_config
from pipeline.study.folder import StudyFolder
from pipeline.study.verdict import confirmation_arms, judge
from pipeline.trials.arm import Arm
from pipeline.trials.results import RunResult, TrialResult
from shaping.certificate import Certificate
from shaping.method_names import SPARSE
from shaping.shape import Shape

STEPS = 30
MACHINE = {"host": "secret-host", "device": "x86_64", "threads": 1, "precision": "float32", "torch": "2.13.0+cpu"}
# How good each arm is made: J at the end.
LEVELS = {
    "winner": 1.55,
    "sparse": 1.1,
    "sparse, lambda 1": 1.16,
    "sparse, reward-model critic": 1.31,
    "sparse, reward-model critic, same lambda": 1.26,
    "uniform": 1.22,
}


class SyntheticStudy:
    """Writes the files of a study, piece by piece."""

    has_gold = True
    # Whether the policy before training was measured; earlier versions did not.
    judges_untrained = True
    # Steps between measurements on held-out prompts; 0 measures none.
    held_out_every = 0

    def __init__(self, root: Path, **changes: Any) -> None:
        self.config = parse_config({"name": "synthetic", "ppo": {"steps": STEPS}, **changes}, "test")
        self.steps = self.config.ppo.steps
        self.folder = StudyFolder(root)
        self.folder.create(self.config)
        self.random = random.Random(1)

    def write(self, path: Path, values: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def run(self, seed: int, level: float, shape: Shape) -> dict[str, Any]:
        """Return one seed's result, its J near ``level``."""
        luck = self.random.gauss(0, 0.05)
        curve, steps = [], self.steps
        for step in range(steps):
            rise = 1 - math.exp(-3 * step / steps)
            objective = -0.4 + (level + luck + 0.4) * rise + self.random.gauss(0, 0.06)
            kl_nats = 9 * rise + self.random.gauss(0, 0.3)
            shown = {"objective": objective, "kl_nats": kl_nats, "reward": objective + 0.02 * kl_nats}
            curve.append({"step": step, **shown, "response_tokens": 24 + 6 * rise})
        final = {
            "objective": level + luck,
            "kl_nats": 9.2 + luck,
            "reward": level + luck + 0.18,
            "gold_reward": level / 2 if self.has_gold else None,
        }
        certificate = Certificate(2.4e-7, 960, 1.0, {name: name != "shapley" for name in shape.active_methods()})
        methods = [name for name in shape.active_methods() if name not in ("sparse", "uniform")]
        return {
            "seed": seed,
            "curve": curve,
            "held_out": self.held_out(level + luck),
            "evaluation": final,
            "certificate": certificate.to_dict(),
            "credit_tokens": 960 * 30 * len(methods),
            "training_cpu_seconds": 10.0 + seed % 10 + len(methods),
            "wall_seconds": 15.0,
            "machine": {**MACHINE, "process": 1000 + seed},
        }

    def held_out(self, level: float) -> list[dict[str, Any]]:
        """Return the measurements of a run that ends near ``level``."""
        found = []
        for done in range(0, self.steps + 1, self.held_out_every) if self.held_out_every else ():
            rise = 1 - math.exp(-3 * done / self.steps)
            point = {"done_steps": done, "objective": level * rise, "reward": level * rise + 0.1, "kl_nats": 9 * rise}
            found.append({**point, "gold_reward": level * rise / 2 if self.has_gold else None})
        return found

    def trial(self, index: int, name: str, origin: str, shape: Shape, level: float) -> None:
        runs = [self.run(seed, level, shape) for seed in self.config.search.seeds]
        path = self.folder.trial_folder(index)
        self.write(path / "trial.json", {"index": index, "arm": name, "origin": origin})
        seeds = list(self.config.search.seeds)
        self.write(
            path / "result.json",
            {
                **TrialResult.of([RunResult.from_dict(run) for run in runs]).to_dict(),
                "arm": Arm(name, shape).to_dict(),
                "seeds": seeds,
            },
        )

    def failed_trial(self, index: int, reason: str = "nan", detail: str = "the policy's loss is nan at step 7") -> None:
        path = self.folder.trial_folder(index)
        self.write(path / "trial.json", {"index": index, "arm": f"{index}_0", "origin": "model"})
        arm = Arm(f"{index}_0", self.mix(0.9, 0.0005 * index))
        self.write(path / "failure.json", {"reason": reason, "detail": detail, "arm": arm.to_dict()})

    def unfinished_trial(self, index: int) -> None:
        path = self.folder.trial_folder(index)
        self.write(path / "trial.json", {"index": index, "arm": f"{index}_0", "origin": "model"})
        self.write(path / "seed-0.json", self.run(0, 1.0, Shape()))

    def stopped_trial(self, index: int, steps: int, projected: float, shape: Shape | None = None) -> None:
        """Write a trial that was stopped after so many steps of all its seeds."""
        path = self.folder.trial_folder(index)
        shape = shape or self.mix(0.2, 0.1)
        made = {"index": index, "arm": f"{index}_0", "origin": "model", "shape": shape.to_dict()}
        self.write(path / "trial.json", made)
        curve = [-0.4 + 0.01 * step for step in range(min(steps, self.steps))]
        self.write(path / "stopped.json", {"steps": steps, "objective": projected, "deviation": 0.125, "curve": curve})

    def mix(self, prefix: float, attention: float, balance: float = 0.85) -> Shape:
        weights = {"prefix": prefix, "attention": attention, "shapley": 1 - prefix - attention}
        return self.config.base_shape().with_changes(weights=weights, balance=balance, gae_lambda=0.87)

    def search(self) -> None:
        """Write a search of every kind of trial, with its winner and ranking."""
        base = self.config.base_shape()
        self.trial(0, "sparse", "baseline", base, 1.1)
        for index, name in enumerate(("prefix", "attention", "shapley"), start=1):
            shape = base.with_changes(weights={name: 1.0}, gae_lambda=0.95)
            self.trial(index, name, "baseline", shape, 1.15 + 0.08 * index)
        for index in range(4, 10):
            shape = self.mix(0.1 + 0.05 * index, 0.02 * index)
            self.trial(index, f"{index}_0", "sobol" if index < 7 else "model", shape, 1.1 + 0.05 * index)
        self.failed_trial(10)
        self.unfinished_trial(11)
        self.write(self.folder.winner_file, self.winner().to_dict())
        ranking = [
            {"index": i, "arm": f"{i}_0", "mean": 1.1 + 0.045 * i, "deviation": 0.06, "from_model": True}
            for i in range(10)
        ]
        self.write(self.folder.ranking_file, ranking)

    def long_search(self, trials: int) -> None:
        """Write a search of so many trials: every sixth was stopped, every tenth failed, the others completed."""
        self.search()
        for index in range(10, trials):
            shape = self.mix(0.1 + 0.8 * index / trials, 0.05)
            if index % 10 == 0:
                self.failed_trial(index)
            elif index % 6 == 0:
                self.stopped_trial(index, self.steps // 2, 0.5, shape)
            else:
                self.trial(index, f"{index}_0", "sobol" if index < 15 else "model", shape, 1.0 + 0.01 * index)

    def failed_attempt(self, folder: Path, reason: str = "worker_died", seed: int = 0, at: str = "12:00:00") -> None:
        """Write that an attempt of a run failed."""
        line = {"at": f"2026-11-21T{at}+00:00", "seeds": [seed], "reason": reason, "detail": f"{reason} at step 3"}
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"failures-{seed}.jsonl").open("a") as file:
            file.write(json.dumps({**line, "trace": "Traceback", "halts": False}) + "\n")

    def early_stopping(self) -> None:
        """Write two trials that were stopped, one inside its first seed and one inside its second."""
        self.stopped_trial(12, 20, 0.25)
        self.stopped_trial(13, 45, 0.75)

    def sensitivity(self) -> None:
        """Write what a model believes of the space's parameters."""
        found = {
            "gae_lambda": {"total": 0.3125, "first": 0.25, "direction": -1.0},
            "weight_prefix": {"total": 0.625, "first": 0.375, "direction": 1.0},
            "weight_attention": {"total": 0.0625, "first": 0.0, "direction": 0.0},
            "weight_shapley": {"total": 0.125, "first": 0.1, "direction": 1.0},
        }
        self.write(self.folder.sensitivity_file, found)

    def winner(self) -> Arm:
        return Arm("9_0", self.mix(0.55, 0.18))

    def confirm(self, seeds: tuple[int, ...] = (100, 101, 102, 103), top: int = 1) -> None:
        """Write the runs on fresh seeds and the verdict that follows from them."""
        runs: dict[str, list[RunResult]] = {}
        arms = confirmation_arms(self.winner(), self.config.base_shape())
        arms += [Arm(f"place {place}, {11 - place}_0", self.mix(0.5, 0.04 * place)) for place in range(2, top + 1)]
        for arm in arms:
            for seed in seeds:
                run = self.run(seed, LEVELS.get(arm.name, 1.4), arm.shape)
                if arm.name == SPARSE and self.judges_untrained:
                    gold = {"gold_reward": 0.125 if self.has_gold else None}
                    run["untrained"] = {"objective": 0.25, "reward": 0.25, "kl_nats": -1e-8, **gold}
                runs.setdefault(arm.name, []).append(RunResult.from_dict(run))
                result = TrialResult.of(runs[arm.name][-1:]).to_dict()
                path = self.folder.confirm_folder(arm.name, seed) / "result.json"
                self.write(path, {**result, "runs": [run], "arm": arm.to_dict(), "seeds": [seed]})
        self.write(self.folder.verdict_file, judge("9_0", runs).to_dict())

    def tokens(self) -> None:
        """Write three responses whose rows all sum to their score."""
        prompts = ("I went to see this film because", "The actors were", "After an hour of")
        texts = (
            " it was one of the best movies I have ever seen , and the music is a wonderful surprise .\n",
            " terrible , and I would not recommend this boring mess to anyone I know or like at all .",
            " waiting , the story finally became good , but the end of it was rather weak and a bit dull .",
        )
        samples = zip(prompts, texts, (2.3125, -1.875, 0.4375), strict=True)
        self.write(self.folder.tokens_file, [self.sample(*sample) for sample in samples])

    def sample(self, prompt: str, text: str, score: float) -> dict[str, Any]:
        tokens = [f" {word}" for word in text.strip(" ").split(" ")]
        rewards = {"sparse": [0.0] * (len(tokens) - 1) + [score], "uniform": [score / len(tokens)] * len(tokens)}
        for method in ("random", "prefix", "attention", "shapley", "kernel_shap", "lime", "winner"):
            spread = 0.1 if method in ("random", "attention") else 0.35
            row = [self.random.gauss(score / len(tokens), spread) for _ in tokens[1:]]
            rewards[method] = [*row, score - math.fsum(row)]
        return {"prompt": prompt, "tokens": tokens, "score": score, "rewards": rewards}
