"""The reward models of film reviews as a study sees them: over the policy's own tokens, or through their text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from pipeline.tasks.models.calibration import prefix_calibration
from pipeline.tasks.models.reward_model import label_quality
from shaping.reward_models import CausalRewardModel, EncoderRewardModel, RetokenizedRewardModel, RewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses

# Reviews whose prefixes are scored one by one where a reward model reads both ways.
CALIBRATED_REVIEWS = 256


def load_reviewer(folder: Path, kind: str, policy_tokenizer: Any | None) -> RewardModel:
    """Return the reward model of a folder, which has its tokenizer beside it and its scale in its config.

    Args:
        folder: Of model and tokenizer.
        kind: ``causal`` or ``encoder``.
        policy_tokenizer: Of a policy with other tokens; ``None`` where they are the reward model's.
    """
    if kind == "causal" and policy_tokenizer is None:
        return CausalRewardModel.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return seen_by_policy(model, kind, tokenizer, policy_tokenizer, folder.name)


def seen_by_policy(
    model: PreTrainedModel, kind: str, tokenizer: Any, policy_tokenizer: Any | None, name: str
) -> RewardModel:
    """Return a classifier of reviews as a reward model over the policy's tokens; see ``load_reviewer``."""
    scale = float(getattr(model.config, "score_mean", 0.0)), float(getattr(model.config, "score_deviation", 1.0))
    # The tiny policy's prompts begin with <s> themselves.
    own = tokenizer if policy_tokenizer is None else opened(tokenizer)
    if kind == "encoder":
        inner: RewardModel = EncoderRewardModel(model, own, mean=scale[0], deviation=scale[1], name=name)
    else:
        inner = CausalRewardModel(model, *scale, name)
    if policy_tokenizer is None:
        return inner
    # An encoder frames its rows itself.
    framed, end = kind != "encoder", int(tokenizer.eos_token_id)
    return RetokenizedRewardModel(inner, own, policy_tokenizer, framed=framed, eos_token_id=end)


def opened(tokenizer: Any) -> Any:
    """Return a copy of the tokenizer that puts beginning-of-sequence before a text."""
    found, start = copy.deepcopy(tokenizer), str(tokenizer.bos_token)
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, int(tokenizer.bos_token_id))]
    )
    return found


def review_quality(
    reward_model: RewardModel, held_out: Sequence[tuple[list[int], list[int]]], fresh: Sequence[bool], eos_id: int
) -> dict[str, float]:
    """Return ``accuracy``, ``pair_accuracy`` and the calibration of prefixes; see ``prefix_calibration``.

    Args:
        reward_model: Of raw scores, whose sign tells fresh from rotten.
        held_out: Prompt and rest of each review, in the policy's tokens.
        fresh: Their labels.
        eos_id: The policy's end-of-sequence.
    """
    prompts, responses = [prompt for prompt, _ in held_out], [response for _, response in held_out]
    scores = score_responses(reward_model, Rollouts.of_ids(prompts, responses)).cpu()
    chosen = slice(0, None, max(1, len(held_out) // CALIBRATED_REVIEWS))
    calibration = prefix_calibration(reward_model, prompts[chosen], responses[chosen], eos_id)
    return {**label_quality(scores, list(fresh)), **calibration}
