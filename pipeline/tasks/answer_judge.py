"""The gold measure of instruction following: does a response do all that was asked, and does it answer *its* question?

No run is trained on it. A policy that is paid for fulfilled constraints can earn by one text that fits them whatever
was asked: reward rises, and nobody is served. So a response counts (1, otherwise 0) only if it fulfils every constraint
(IFEval's strict accuracy of prompts) and the untrained policy finds it likelier after its own question than after each
of three others. Questions are compared without their constraints, so that small letters or missing commas, which make
any text less likely, make it so on both sides; fluency alone would punish obedience and praise repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.ppo.actor import Actor
from pipeline.tasks.verifiable import AskedConstraints, Checks
from shaping.alignment import DecodedRollouts
from shaping.errors import ConfigError
from shaping.reward_models.base import VariantScores
from shaping.rollouts import Rollouts
from shaping.variants import Variants

OTHER_QUESTIONS = 3
MICRO_BATCH = 32


class AnswerJudge:
    """The measure as a reward model that scores whole responses: 1 or 0.

    Args:
        model: The untrained policy.
        tokenizer: Its tokenizer.
        asked: What the prompts ask for.
        questions: By the text of each prompt the token ids of its question alone.
    """

    name, added_tokens, layers = "all constraints, and its own question's answer", 0, 0
    abilities: frozenset[str] = frozenset()

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, asked: AskedConstraints, questions: dict[str, list[int]]
    ) -> None:
        self.model, self._tokenizer, self._asked, self._checks = model, tokenizer, asked, Checks()
        self._questions = list(questions.values())
        self._places = {text.strip(): place for place, text in enumerate(questions)}

    def score(self, variants: Variants) -> VariantScores:
        """Return 1 for each response that fulfils all constraints and answers its own question, otherwise 0."""
        whole = Variants.whole(variants.rollouts)
        if not torch.equal(whole.owner, variants.owner) or not torch.equal(whole.keep, variants.keep):
            raise ConfigError(f"the gold measure ({self.name}) scores whole responses only")
        rollouts = variants.rollouts
        found = self.strict(rollouts)
        # Most do not get so far, and a forward pass costs more than a check.
        rows = found.nonzero().squeeze(1)
        if len(rows):
            found[rows] &= self.own_question(rollouts.select(rows))
        return VariantScores(found.float(), 0)

    def strict(self, rollouts: Rollouts) -> Tensor:
        """Return for each response whether it fulfils all constraints: a boolean ``B`` tensor."""
        texts = DecodedRollouts.of(rollouts, self._tokenizer)
        pairs = zip(texts.prompts, texts.responses, strict=True)
        strict = [all(self._checks.fulfilled(self._asked.of(prompt), response)) for prompt, response in pairs]
        return torch.tensor(strict, dtype=torch.bool, device=rollouts.response_ids.device)

    @torch.no_grad()
    def own_question(self, rollouts: Rollouts) -> Tensor:
        """Return for each response whether it is likelier after its own question: a boolean ``B`` tensor."""
        texts = DecodedRollouts.of(rollouts, self._tokenizer).prompts
        own = [self._places[text.strip()] for text in texts]
        count = len(self._questions)
        steps = [count * number // (OTHER_QUESTIONS + 1) for number in range(1, OTHER_QUESTIONS + 1)]
        likely = self._log_likelihood([self._questions[place] for place in own], rollouts)
        best = torch.stack(
            [self._log_likelihood([self._questions[(place + step) % count] for place in own], rollouts) for step in steps]
        ).amax(dim=0)
        return likely > best

    def _log_likelihood(self, questions: Sequence[list[int]], rollouts: Rollouts) -> Tensor:
        """Return the log-probability of each response after a question, in nats: a ``B`` tensor."""
        device = self.model.device
        masks = zip(rollouts.response_ids, rollouts.response_mask, strict=True)
        responses = [ids[mask].tolist() for ids, mask in masks]
        asked = Rollouts.of_ids(list(questions), responses, device)
        return Actor(self.model, None, None).observe(asked, MICRO_BATCH).log_probs.sum(dim=1).to(
            rollouts.response_ids.device
        )
