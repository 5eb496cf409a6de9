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

from pipeline.tasks.instruction.verifier import AskedConstraints, Checks
from pipeline.trainers.ppo.actor import Actor
from shaping.reward_models import TextRewardModel
from shaping.reward_models.base import VariantScores
from shaping.rollouts import Rollouts
from shaping.variants import NO_TOKEN, Variants

OTHER_QUESTIONS = 3
MICRO_BATCH = 32


class AnswerJudge(TextRewardModel):
    """The measure as a reward model: 1 or 0.

    Args:
        model: The untrained policy.
        tokenizer: Its tokenizer.
        asked: What the prompts ask for.
        questions: By the text of each prompt the token ids of its question alone.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, asked: AskedConstraints, questions: dict[str, list[int]]
    ) -> None:
        super().__init__(self.strict, tokenizer, separate=True, name="all constraints, and an answer to its question")
        self.model, self._asked, self._checks = model, asked, Checks()
        self._questions = list(questions.values())
        self._places = {text.strip(): place for place, text in enumerate(questions)}

    def score(self, variants: Variants) -> VariantScores:
        """Return 1 for each variant that fulfils all constraints and answers its own question, otherwise 0.

        The model reads the tokens that were sampled: their text, encoded again, may begin with other tokens, and how a
        response takes up its prompt is most of what tells one question from another.
        """
        decoded = self._decode(variants.rollouts)
        pairs = list(zip(variants.owner.tolist(), variants.keep.tolist(), strict=True))
        prompts = [decoded.prompts[owner] for owner, _ in pairs]
        found = self.strict(prompts, [decoded.kept_text(owner, keep) for owner, keep in pairs])
        # Most do not get so far, and a forward pass costs more than a check.
        rows = [row for row, passed in enumerate(found) if passed]
        if rows:
            ids = [[token for token in row if token != NO_TOKEN] for row in variants.kept_ids()[rows].tolist()]
            for row, answered in zip(rows, self.own_question([prompts[row] for row in rows], ids), strict=True):
                found[row] = answered
        return VariantScores(torch.tensor(found, device=variants.owner.device).float(), 0)

    def strict(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool]:
        """Return for each response whether it fulfils all constraints of its prompt."""
        pairs = zip(prompts, responses, strict=True)
        return [all(self._checks.fulfilled(self._asked.of(prompt), response)) for prompt, response in pairs]

    @torch.no_grad()
    def own_question(self, prompts: Sequence[str], responses: Sequence[list[int]]) -> list[bool]:
        """Return for each response, given as ids, whether it is likelier after its own question than after others.

        The three others stand a quarter, a half and three quarters of all questions further on.
        """
        own, count = [self._places[prompt.strip()] for prompt in prompts], len(self._questions)
        steps = [count * number // (OTHER_QUESTIONS + 1) for number in range(OTHER_QUESTIONS + 1)]
        likely = torch.stack(
            [
                self._log_likelihood([self._questions[(place + step) % count] for place in own], responses)
                for step in steps
            ]
        )
        return list((likely[0] > likely[1:].amax(dim=0)).tolist())

    def _log_likelihood(self, questions: list[list[int]], responses: Sequence[list[int]]) -> Tensor:
        """Return the log-probability of each response after a question, in nats: a ``B`` tensor."""
        asked = Rollouts.of_ids(questions, list(responses), self.model.device)
        return Actor(self.model, None, None).observe(asked, MICRO_BATCH).log_probs.sum(dim=1)
