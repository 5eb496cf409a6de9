"""What must hold before a run may train: what is sampled, read again and scored agrees, but for rounding.

PPO's ratios and the price of KL compare log-probabilities that were found in different ways. Where these differ by
more than rounding, training follows the difference. Rounding is measured: it is what moving the embeddings by one unit
of the last place does to what a model says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.trainers.base import Prompts, Task, is_quantized
from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.rollout import keeps_keys_and_values, sample_responses
from pipeline.trainers.ppo.settings import SamplingSettings
from shaping.errors import ConfigError, ShapetuneError, TrialFailed, is_out_of_memory
from shaping.reward_models import RewardModel
from shaping.rollouts import Rollouts, unpadded
from shaping.scoring import score_responses
from shaping.user_code import error_and_place

# What a layer's sums add to one unit of rounding; faults differ by thousands of units.
UNITS = 64
# Of a function, or of quantized weights, nothing can be moved: scores may come from half precision.
FUNCTION_ROUNDING = 2 * torch.finfo(torch.bfloat16).eps
# Rows, prompt tokens and response tokens that are looked at.
ROWS, PROMPT_TOKENS, RESPONSE_TOKENS = 3, 24, 8
# Routers of experts may turn at a tie: a few responses of a real batch may differ, and longer ones differ by more.
DIFFERING_SHARE, LONGER = 0.1, 8


@dataclass(frozen=True)
class Agreement:
    """What was found before a run.

    Attributes:
        cached: Whether the policy may be sampled from with cached keys and values.
        rounding: Difference of log-probabilities, in nats, that rounding explains.
    """

    cached: bool
    rounding: float


def check_task(task: Task, policy: PreTrainedModel, sampling: SamplingSettings) -> Agreement:
    """Return how a policy is to be sampled from, after it was held against the reference and itself.

    Nothing that is random later on is touched.

    Args:
        task: Its policy is the reference; its reward models are asked, too.
        policy: What will be trained; equal to the reference so far.
        sampling: How responses will be sampled.

    Raises:
        ConfigError: Something does not agree, or a token that ends responses is none of the policy's; named.
        TrialFailed: A score is not finite (``nan``).
    """
    check_end_tokens(task)
    asked, device = _few(task.train_prompts, task.held_out_prompts), policy.device
    cut = [row[: size * PROMPT_TOKENS // ROWS] for size, row in enumerate(asked, start=1)]
    if len({len(row) for row in asked}) == 1:
        cut = [row[:PROMPT_TOKENS] for row in asked]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        agreement, sampled = _check_policy(task, policy, Prompts.of_ids(cut, device), sampling)
        # Of different lengths, and to whole prompts: a reward model may look its prompt up.
        said = [row[: max(1, len(row) - 2 * place)] for place, row in enumerate(sampled)]
        rollouts = Rollouts.of_ids(asked, said, device)
        check_scores(task.reward_model, "reward model", rollouts)
        if task.gold_model is not None:
            # A gold measure may know the held-out prompts alone: it holds a response against what a human wrote.
            held_out = _few(task.held_out_prompts)
            check_scores(task.gold_model, "gold model", Rollouts.of_ids(held_out, said, device))
    return agreement


def check_end_tokens(task: Task) -> None:
    """Refuse tokens that no response can end with.

    Raises:
        ConfigError: The policy does not know one of them.
    """
    known = task.policy.get_output_embeddings().weight.shape[0]
    unknown = [token for token in task.end_token_ids if not 0 <= token < known]
    if unknown:
        raise ConfigError(
            f"token {unknown[0]} ends a response, but the policy knows {known} tokens",
            "give model and tokenizer that belong together",
        )


def check_first_batch(own: Tensor, reference: Tensor, rollouts: Rollouts, agreement: Agreement) -> None:
    """Refuse a first batch of which policy and reference do not say the same, before anything is learned from it.

    Args:
        own: ``B x T`` log-probabilities as the policy sampled, in nats.
        reference: ``B x T`` of the reference.
        rollouts: The batch.
        agreement: What was found of the policy before.

    Raises:
        TrialFailed: More responses differ than rounding explains (``disagreement``).
    """
    difference = ((own - reference).abs() * rollouts.response_mask).amax(dim=1)
    allowed = LONGER * agreement.rounding
    differing = ~(difference <= allowed)
    if float(differing.float().mean()) > DIFFERING_SHARE:
        raise TrialFailed(
            "disagreement",
            f"before any update policy and reference differ by up to {float(difference.max()):.2g} nats a token in "
            f"{int(differing.sum())} of {len(rollouts)} responses, where rounding explains {allowed:.1g}",
            "use a policy that says of a sampled response what it says when it reads it again",
        )


def check_scores(model: RewardModel, what: str, rollouts: Rollouts) -> None:
    """Refuse a reward model whose score of a text depends on the texts beside it.

    Args:
        model: Asked for each response alone and for all together.
        what: What messages call it.
        rollouts: The responses.

    Raises:
        ConfigError: Scores do not agree, or the reward model fails.
        TrialFailed: A score is not finite (``nan``).
    """
    try:
        together = score_responses(model, rollouts)
        alone = torch.cat([score_responses(model, row) for row in _alone(rollouts)])
        rounding = _score_rounding(model, rollouts, together)
    except ShapetuneError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{what} {model.name} cannot score the policy's responses: {error_and_place(error)}",
            "it must take any tokens that the policy can say",
        ) from error
    difference = (together - alone).abs()
    if not bool((difference <= rounding).all()):
        one, many = (float(scores[int(difference.argmax())]) for scores in (alone, together))
        raise ConfigError(
            f"{what} {model.name} gives one text {one:.6g} alone and {many:.6g} in a batch",
            "a score must depend on its own text only, and be the same each time",
        )


def _check_policy(
    task: Task, policy: PreTrainedModel, prompts: Prompts, sampling: SamplingSettings
) -> tuple[Agreement, list[list[int]]]:
    """Return the agreement, and the ids of a response to each prompt."""
    name, ends = type(policy).__name__, list(task.end_token_ids)
    # Weights in half precision are computed with as a run computes: what is trained are float32 copies of them.
    dtype = task.policy.dtype
    half = None if dtype == torch.float32 else dtype
    own, reference = (Actor(each, None, ends, sampling.temperature, half) for each in (policy, task.policy))
    cached, rollouts = _sampled_as_read(own, prompts, ends, sampling)
    read, rounding = _with_rounding(policy, partial(_read, own, rollouts), dtype)
    alone = torch.cat([_read(own, row) for row in _alone(rollouts)])
    if not _agree(alone, read, rounding):
        raise ConfigError(
            f"policy {name} does not take padded prompts: beside a longer prompt it differs by up to "
            f"{_largest(alone, read):.2g} nats a token from itself",
            "give prompts that all have as many tokens, or a policy that takes a padding mask",
        )
    other = _read(reference, rollouts)
    if not _agree(other, read, rounding):
        raise ConfigError(
            f"policy {name} differs from its reference by {_largest(other, read):.2g} nats a token before any update",
            "give a policy that says the same each time it reads a text",
        )
    return Agreement(cached, rounding), unpadded(rollouts.response_ids, rollouts.response_mask)


def _sampled_as_read(
    actor: Actor, prompts: Prompts, ends: list[int], sampling: SamplingSettings
) -> tuple[bool, Rollouts]:
    """Return whether a cache serves, and responses of which the policy says the same as it reads them again.

    Raises:
        ConfigError: It does not. A policy whose past is no more than keys and values must keep them right; others may
            be read anew for each token.
    """
    policy, fault = actor.policy, ""
    by_attention = keeps_keys_and_values(policy)
    for cached in (True,) if by_attention else (True, False):
        try:
            rollouts, fault = _tried(actor, prompts, ends, sampling, cached)
            if not fault and cached and not by_attention:
                # Some recurrent layers go another way where no row is padded.
                _, fault = _tried(actor, _without_padding(prompts), ends, sampling, cached)
        except ShapetuneError:
            raise
        # Each library and each policy refuses a cache that is not its own in words of its own.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if not fault:
            return cached, rollouts
    raise ConfigError(
        f"policy {type(policy).__name__} cannot be sampled from: {fault}",
        "use a policy whose cache of the past gives what reading the whole text gives",
    )


def _tried(
    actor: Actor, prompts: Prompts, ends: list[int], sampling: SamplingSettings, cached: bool
) -> tuple[Rollouts, str]:
    """Return sampled responses, and how what was sampled from differs from what is read; empty where it does not."""
    tokens = min(sampling.response_tokens, RESPONSE_TOKENS)
    uniforms = torch.rand(tokens, len(prompts), generator=torch.Generator().manual_seed(0))
    given = (actor.policy, prompts.ids, prompts.mask, uniforms, ends, False, sampling.temperature, cached)
    with actor.half_precision():
        found = sample_responses(*given)
    said = actor.observe(found.rollouts, None, states=found.states).log_probs
    read, rounding = _with_rounding(actor.policy, partial(_read, actor, found.rollouts), actor.computes_in)
    if _agree(said, read, rounding):
        return found.rollouts, ""
    most = _largest(said, read)
    return found.rollouts, f"what it samples from differs by up to {most:.2g} nats a token from what it reads"


def _without_padding(prompts: Prompts) -> Prompts:
    width = int(prompts.mask.sum(dim=1).min())
    return Prompts(prompts.ids[:, -width:], prompts.mask[:, -width:])


def _read(actor: Actor, rollouts: Rollouts) -> Tensor:
    return actor.observe(rollouts, None).log_probs


def _few(*parts: Prompts) -> list[list[int]]:
    """Return some of the prompts, from the shortest to the longest."""
    found: list[list[int]] = []
    for prompts in parts:
        order = prompts.mask.sum(dim=1).argsort(stable=True)
        found += prompts.select(order[[0, len(order) // 2, len(order) - 1]]).to_ids()
    found.sort(key=len)
    return [found[place * (len(found) - 1) // (ROWS - 1)] for place in range(ROWS)]


def _alone(rollouts: Rollouts) -> list[Rollouts]:
    """Return each prompt with its response, without padding."""
    prompts = unpadded(rollouts.prompt_ids, rollouts.prompt_mask)
    responses = unpadded(rollouts.response_ids, rollouts.response_mask)
    device = rollouts.response_ids.device
    return [Rollouts.of_ids([prompt], [said], device) for prompt, said in zip(prompts, responses, strict=True)]


def _largest(some: Tensor, others: Tensor) -> float:
    return float((some - others).abs().max())


def _agree(some: Tensor, others: Tensor, rounding: float) -> bool:
    # A number that is none agrees with nothing.
    return _largest(some, others) <= rounding


def _with_rounding(model: Any, values: Callable[[], Tensor], dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return values that a model gives, and by how much rounding may move them, in the type that it computes in."""
    found, eps = values(), torch.finfo(dtype).eps
    with _moved_embeddings(model, eps):
        moved = values()
    # One unit of half precision is as large as a sum of float32 may be off by.
    least = UNITS * eps if dtype == torch.float32 else eps
    return found, max(least * max(1.0, float(found.abs().max())), UNITS * _largest(found, moved))


def _score_rounding(reward_model: Any, rollouts: Rollouts, scores: Tensor) -> float:
    model = getattr(getattr(reward_model, "inner", reward_model), "model", None)
    if isinstance(model, PreTrainedModel) and _has_embeddings(model) and not is_quantized(model):
        return _with_rounding(model, lambda: score_responses(reward_model, rollouts), model.dtype)[1]
    return FUNCTION_ROUNDING * float(scores.abs().max())


def _has_embeddings(model: PreTrainedModel) -> bool:
    try:
        return isinstance(model.get_input_embeddings(), nn.Module)
    except NotImplementedError:
        return False


@contextmanager
def _moved_embeddings(model: PreTrainedModel, eps: float) -> Iterator[None]:
    """Move what each token is embedded as by one unit of the last place, up or down."""
    generator = torch.Generator().manual_seed(1)

    def moved(module: Any, given: Any, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        return output * (1 + eps * signs)

    handle = model.get_input_embeddings().register_forward_hook(moved)
    try:
        yield
    finally:
        handle.remove()
