"""Continuous batching by transformers: where a response ends, the next one begins in its place."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from pipeline.runtime.logging import quiet_libraries
from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.engines.base import sampled_of, seeds_of
from pipeline.trainers.ppo.log_probs import TokenIds, as_list
from pipeline.trainers.ppo.rollout import Sampled
from pipeline.trainers.ppo.settings import SamplingSettings
from shaping.errors import ConfigError

# Tokens whose keys and values of a layer stand together in memory.
PAGE_TOKENS = 64
# Tokens of a forward pass, prompts among them: without flash attention a mask holds each beside all that is kept.
PASS_TOKENS = 512
# How long the library may be silent before it is asked whether it still runs.
LISTEN_SECONDS = 1.0


class ContinuousEngine:
    """Samples through transformers' continuous batching, which holds as many responses as are to be sampled at a time.

    Args:
        policy: What is trained.
        settings: How responses are sampled.
        end_ids: The tokens that end a response.
        half: The type that the policy's products are computed in; ``None`` computes in its weights' own. The library
            samples in a thread of its own, which autocast does not reach: it is given a copy in that type.
    """

    def __init__(
        self, policy: PreTrainedModel, settings: SamplingSettings, end_ids: TokenIds, half: torch.dtype | None
    ) -> None:
        self._source, self._settings, self._ends = policy, settings, as_list(end_ids)
        self._policy = policy if half is None else copy.deepcopy(policy).to(half).requires_grad_(False)

    @torch.no_grad()
    def sample(self, prompts: Prompts, uniforms: Tensor, at_once: int | None) -> Sampled:
        """Return a response to each prompt.

        Raises:
            ConfigError: The library cannot sample from this policy.
            MemoryError: It ran out of memory.
        """
        rows, longest = prompts.to_ids(), self._settings.response_tokens
        held = min(len(rows), at_once or len(rows))
        pages = math.ceil((max(len(row) for row in rows) + longest) / PAGE_TOKENS)
        # The library's own choice takes what memory there is.
        limits = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=held * pages + 1,
            max_batch_tokens=max(held, PASS_TOKENS),
            max_requests_per_batch=held,
            # Shared pages hold what older weights computed, and tell nothing apart by weights.
            allow_block_sharing=False,
            return_logprobs=True,
        )
        devices = [prompts.ids.device] if prompts.ids.is_cuda else []
        # The library warns of a processor in every batch, which the tests hold against the policy.
        with torch.random.fork_rng(devices=devices), quiet_libraries(), _older_objects_left_alone():
            torch.manual_seed(seeds_of(uniforms)[0])
            found = self._generated(rows, limits)
        return sampled_of(
            prompts, [each.generated_tokens for each in found], [each.logprobs for each in found], self._ends[0]
        )

    def _generated(self, rows: list[list[int]], limits: ContinuousBatchingConfig) -> list[Any]:
        """Return the library's answer to each prompt."""
        manager = self._policy.init_continuous_batching(self._generation(), limits)
        # All stand in line before the first is begun: what is batched with what is no matter of time.
        asked = manager.add_requests(rows, max_new_tokens=self._settings.response_tokens)
        manager.start()
        answers: dict[str, Any] = {}
        try:
            while len(answers) < len(asked):
                answer = manager.get_result(timeout=LISTEN_SECONDS)
                if answer is not None and answer.error is not None:
                    raise self._refused(answer.error)
                if answer is not None and answer.is_finished():
                    answers[answer.request_id] = answer
                elif answer is None and not manager.is_running():
                    raise self._refused("its thread ended")
        finally:
            manager.stop(block=True)
        return [answers[name] for name in asked]

    def _generation(self) -> GenerationConfig:
        """Return how the library samples: from the distribution that is trained, whatever the model's files say."""
        settings = self._settings
        return GenerationConfig(
            do_sample=True,
            temperature=settings.temperature,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=settings.response_tokens,
            eos_token_id=self._ends if settings.stop_at_eos else [-1],
            pad_token_id=self._ends[0],
            suppress_tokens=None if settings.stop_at_eos else self._ends,
        )

    def _refused(self, error: str) -> Exception:
        # The library's own words, and torch's.
        if "memory" in error.lower() and ("available" in error or "alloc" in error):
            return MemoryError(error)
        return ConfigError(
            f"sampling.engine = continuous, but transformers cannot batch {type(self._policy).__name__}: {error}",
            "set sampling.engine to transformers",
        )

    @torch.no_grad()
    def policy_changed(self) -> None:
        """Copy the policy's weights where it is a copy that is sampled from."""
        if self._policy is not self._source:
            for own, new in zip(self._policy.parameters(), self._source.parameters(), strict=True):
                own.copy_(new)

    def close(self) -> None:
        """Do nothing: what is held is held for a batch."""


@contextmanager
def _older_objects_left_alone() -> Iterator[None]:
    """Keep the garbage collector off what was there before: the library collects twice a batch, a second in all."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
