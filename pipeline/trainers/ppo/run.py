"""One inner run: training steps with checkpoints and evaluations, resumed after a kill as if nothing happened."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from pipeline.trainers.ppo.checkpoint import Place, read_checkpoint, write_checkpoint
from pipeline.trainers.ppo.evaluation import Evaluation, evaluate
from pipeline.trainers.ppo.settings import EvaluationSettings
from pipeline.trainers.ppo.trainer import CurvePoint, PPOTrainer
from shaping.errors import TrialFailed


class InnerRun:
    """Runs a trainer to its end.

    Args:
        trainer: A fresh one.
        evaluation: How the policy is judged, during the run and at its end.
        saved: The checkpoint's file, or an address of it.
        identity: What decides the run; a checkpoint of another one is not resumed.
        judges_untrained: Whether the policy is judged before its training as it is at the end.

    Attributes:
        curve: Every training step's point, as plain values.
        held_out: Evaluations during the run, each with the number of training steps before it.
        untrained: The evaluation before training; ``None`` where none was asked for.
        training_cpu_seconds: Processor seconds of training, earlier attempts included; evaluations are not.
    """

    def __init__(
        self,
        trainer: PPOTrainer,
        evaluation: EvaluationSettings,
        saved: Place,
        identity: str,
        judges_untrained: bool = False,
    ) -> None:
        self.trainer, self._evaluation, self._saved, self._identity = trainer, evaluation, saved, identity
        self._judges_untrained = judges_untrained
        self.untrained: dict[str, Any] | None = None
        self.curve: list[dict[str, float]] = []
        self.held_out: list[dict[str, Any]] = []
        self.training_cpu_seconds = 0.0
        checkpoint = read_checkpoint(saved)
        if checkpoint is not None and checkpoint.values.get("run") == identity:
            trainer.restore(checkpoint)
            self.curve = list(checkpoint.values["curve"])
            self.held_out = list(checkpoint.values["held_out"])
            # Checkpoints of earlier versions do not know it.
            self.untrained = checkpoint.values.get("untrained")
            self.training_cpu_seconds = float(checkpoint.values["training_cpu_seconds"])

    def steps(self) -> Iterator[CurvePoint]:
        """Yield every training step that is still to do, evaluated and saved where that is due.

        Raises:
            TrialFailed: The run came to nothing; the reason is named.
        """
        if not self.curve:
            if self._judges_untrained:
                self.untrained = _measured(evaluate(self.trainer, self._evaluation.prompts))
            self._judge()
        started = time.process_time()
        for point in self.trainer.steps(start=len(self.curve)):
            self.training_cpu_seconds += time.process_time() - started
            self.curve.append(point.to_dict())
            self._judge()
            if self.trainer.settings.saves_after(len(self.curve)):
                self._save()
            yield point
            started = time.process_time()

    def result(self) -> Evaluation:
        """Return the evaluation of the trained policy, with its texts.

        Raises:
            TrialFailed: The objective is not finite (``nan``).
        """
        found = evaluate(self.trainer, self._evaluation.prompts, self._evaluation.kept_texts)
        if not math.isfinite(found.objective):
            raise TrialFailed("nan", f"J is {found.objective} after training with seed {self.trainer.seed}")
        return found

    def _judge(self) -> None:
        done, every = len(self.curve), self._evaluation.every_steps
        if every and done % every == 0:
            found = _measured(evaluate(self.trainer, self._evaluation.curve_prompts))
            self.held_out.append({"done_steps": done, **found})

    def _save(self) -> None:
        if self.trainer.processes.rank == 0:
            measured = {"curve": self.curve, "held_out": self.held_out, "untrained": self.untrained}
            seconds = {"training_cpu_seconds": self.training_cpu_seconds}
            write_checkpoint(self._saved, self.trainer.checkpoint(run=self._identity, **measured, **seconds))


def _measured(found: Evaluation) -> dict[str, Any]:
    return {name: value for name, value in found.to_dict().items() if name != "texts"}
