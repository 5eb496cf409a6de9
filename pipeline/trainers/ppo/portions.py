"""How much of a batch goes through a model at once: halved where memory does not suffice, and kept to from then on."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from pipeline.runtime.files import read_json, write_json
from shaping.errors import TrialFailed, is_out_of_memory
from shaping.reward_models import RewardModel
from shaping.reward_models.base import BoundedPasses

logger = logging.getLogger(__name__)

Found = TypeVar("Found")
# Stages of a training step, each with what bounds its memory, and what to set lower where the least is too much.
SAMPLE, OBSERVE, SCORE, UPDATE = "sampling", "observing", "scoring", "updating"
BOUNDS = {
    SAMPLE: "sampling.micro_batch_size",
    OBSERVE: "responses in one forward pass",
    SCORE: "tokens in one forward pass of the reward model",
    UPDATE: "micro_batch_size",
}
REMEDIES = {
    SCORE: "load it in half precision (task.reward_model.dtype), or lower sampling.response_tokens",
    UPDATE: "lower ppo.batch_size or sampling.response_tokens",
}
LOWER_TOKENS = "lower sampling.response_tokens, or shorten the prompts"


class Portions:
    """What fits, by stage.

    Args:
        wanted: Responses at once, by stage; ``None`` takes all of a batch.
        kept: The file that keeps what had to be lowered, so that a further attempt of the run begins with it;
            ``None`` keeps nothing.
    """

    def __init__(self, wanted: dict[str, int | None], kept: Path | None = None) -> None:
        self._most, self._kept = dict(wanted), kept
        for stage, most in (read_json(kept) or {}).items() if kept is not None else ():
            self._lower(stage, int(most))

    def most(self, stage: str) -> int | None:
        """Return the bound of a stage; ``None`` where nothing bounds it."""
        return self._most.get(stage)

    def rows(self, stage: str, count: int, compute: Callable[[int | None], Found]) -> Found:
        """Return what ``compute`` gives for the responses at once that fit, ``count`` at most.

        Raises:
            TrialFailed: Not even one response fits (``out_of_memory``).
        """

        def halve() -> bool:
            before = min(count, self.most(stage) or count)
            if before > 1:
                self._most[stage] = before // 2
            return before > 1

        return self.fitting(stage, lambda: compute(self.most(stage)), halve, lambda: self.most(stage) or count)

    def passes(self, model: RewardModel, compute: Callable[[], Found]) -> Found:
        """Return what ``compute``, which asks a reward model, gives in forward passes of it that fit.

        Raises:
            TrialFailed: Not even one text fits (``out_of_memory``).
        """
        # Behind a change of tokenizers; a function of texts has none.
        bounded: BoundedPasses | None = getattr(getattr(model, "inner", model), "passes", None)
        if bounded is None:
            return compute()
        if (most := self.most(SCORE)) is not None:
            bounded.lower_to(most)
        return self.fitting(SCORE, compute, bounded.halve, lambda: bounded.most_tokens)

    def fitting(
        self, stage: str, compute: Callable[[], Found], halve: Callable[[], bool], bound: Callable[[], int]
    ) -> Found:
        """Return what ``compute`` gives once it fits into memory.

        Args:
            stage: Of a training step.
            compute: Called again with a lower bound as long as memory does not suffice.
            halve: Halves the bound; returns whether that was possible.
            bound: Returns it.

        Raises:
            TrialFailed: The least does not fit either (``out_of_memory``).
        """
        while True:
            try:
                return compute()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if not halve():
                    raise TrialFailed(
                        "out_of_memory",
                        f"{stage} does not fit into memory with {BOUNDS[stage]} {bound()} either",
                        REMEDIES.get(stage, LOWER_TOKENS),
                    ) from error
            # Here the error is gone, and with it the frames that held what had been computed.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._lower(stage, bound())
            logger.warning("out of memory while %s: continuing with %s %d", stage, BOUNDS[stage], bound())
            if self._kept is not None:
                write_json(self._kept, self._lowered)

    @property
    def _lowered(self) -> dict[str, int]:
        return {stage: most for stage, most in self._most.items() if most is not None}

    def _lower(self, stage: str, most: int) -> None:
        now = self._most.get(stage)
        self._most[stage] = most if now is None else min(now, most)
