"""Continuous batching samples from the distribution that is trained: the policy, alone on each row, is the oracle."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.trainers.base import Prompts
from pipeline.trainers.ppo.engines.continuous import ContinuousEngine
from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.rollout import Sampled
from pipeline.trainers.ppo.settings import LoraSettings, SamplingSettings
from shaping.errors import ConfigError, TrialFailed
from tests.support.models.tiny_models import BOS, EOS, tiny_policy
from tests.support.models.tiny_task import ending_policy, tiny_task, tiny_trainer

# Of log-probabilities, in nats.
ROUNDING = 1e-5


def uniforms(rows: int, seed: int = 0, tokens: int = 8) -> Tensor:
    return torch.rand(tokens, rows, generator=torch.Generator().manual_seed(seed))


def engine(policy: PreTrainedModel, **settings: object) -> ContinuousEngine:
    chosen = SamplingSettings(**{"response_tokens": 8, "engine": "continuous", **settings})
    return ContinuousEngine(policy, chosen, [EOS], None)


def alone(policy: PreTrainedModel, found: Sampled, row: int, temperature: float, banned: bool) -> Tensor:
    """Return the log-probabilities of a response by one pass over its row, without padding."""
    given = found.rollouts
    prompt, response = given.prompt_ids[row][given.prompt_mask[row]], given.response_ids[row][given.response_mask[row]]
    with torch.no_grad():
        logits = policy(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1] / temperature
    if banned:
        logits[:, EOS] = -torch.inf
    return logits.log_softmax(dim=-1).gather(1, response[:, None]).squeeze(1)


@pytest.mark.parametrize(("stops", "temperature"), [(True, 1.0), (False, 0.6), (True, 1.7)])
@pytest.mark.parametrize("at_once", [None, 3])
def test_what_it_says_of_each_token_is_what_the_policy_says_alone(
    stops: bool, temperature: float, at_once: int | None
) -> None:
    policy, prompts = ending_policy(), tiny_task().train_prompts
    # Settings that a model's files bring along.
    policy.generation_config.update(top_k=2, top_p=0.3, repetition_penalty=3.0, do_sample=True, max_new_tokens=2)
    found = engine(policy, stop_at_eos=stops, temperature=temperature).sample(prompts, uniforms(8), at_once)
    assert found.log_probs is not None
    for row in range(len(prompts)):
        said = found.log_probs[row][found.rollouts.response_mask[row]]
        assert torch.allclose(said, alone(policy, found, row, temperature, not stops), atol=ROUNDING)
    assert torch.equal(found.rollouts.prompt_ids, prompts.ids)
    given, mask = found.rollouts.response_ids, found.rollouts.response_mask
    ends = (given == EOS) & mask
    if stops:
        # The end is the response's last token, and some end early.
        assert bool(ends.any()) and bool((ends.sum(dim=1) <= 1).all())
        assert all(bool(ends[row, int(mask[row].sum()) - 1]) for row in torch.nonzero(~mask.all(dim=1)).flatten())
    else:
        assert bool(mask.all()) and not bool(ends.any())


def test_tokens_come_as_often_as_the_policy_says() -> None:
    policy = tiny_policy()
    prompts = Prompts.of_ids([[BOS, 5, 7]] * 4_000)
    found = engine(policy, response_tokens=1).sample(prompts, uniforms(4_000, tokens=1), 200)
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[BOS, 5, 7]])).logits[0, -1]
    logits[EOS] = -torch.inf
    expected = logits.softmax(dim=-1).double()
    counts = torch.bincount(found.rollouts.response_ids.flatten(), minlength=len(expected)).double()
    assert counts[EOS] == 0
    kept = torch.arange(len(expected)) != EOS
    shares = expected[kept] / expected[kept].sum()
    assert chisquare(counts[kept].numpy(), (shares * len(prompts)).numpy()).pvalue > 1e-3


def test_the_same_numbers_give_the_same_responses_and_nothing_else_is_touched() -> None:
    policy, prompts = tiny_policy(), tiny_task().train_prompts
    chosen, before = policy.config._attn_implementation, torch.get_rng_state()
    first, again, other = (engine(policy).sample(prompts, uniforms(8, seed), None) for seed in (1, 1, 2))
    assert torch.equal(first.rollouts.response_ids, again.rollouts.response_ids)
    assert not torch.equal(first.rollouts.response_ids, other.rollouts.response_ids)
    assert policy.config._attn_implementation == chosen
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_in_half_precision_follows_the_policy() -> None:
    policy, prompts = tiny_policy(), tiny_task().train_prompts
    settings = SamplingSettings(response_tokens=8, engine="continuous")
    sampled = ContinuousEngine(policy, settings, [EOS], torch.bfloat16)
    before = sampled.sample(prompts, uniforms(8), None)
    changed = copy.deepcopy(policy)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.5)
    sampled.policy_changed()
    after = sampled.sample(prompts, uniforms(8), None)
    for found, model, other in ((before, changed, policy), (after, policy, changed)):
        assert found.log_probs is not None
        said = [torch.cat([alone(each, found, row, 1.0, True) for row in range(8)]) for each in (model, other)]
        own, wrong = (float((each - found.log_probs.flatten()).abs().mean()) for each in said)
        assert own < wrong / 8, (own, wrong)


def test_a_policy_that_the_library_cannot_batch_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("this model keeps no keys")

    monkeypatch.setattr(policy, "forward", broken)
    with pytest.raises(
        ConfigError, match=r"(?s)continuous, but transformers cannot batch Llama.*no keys.*transformers"
    ):
        engine(policy).sample(tiny_task().train_prompts, uniforms(8), None)


@pytest.mark.parametrize("said", ["Memory footprint 9 is more than available memory 3", "can't allocate memory: 9 B"])
def test_memory_that_does_not_suffice_is_met_by_fewer_responses_at_a_time(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(sampling={"engine": "continuous"})
    policy = trainer.actor.policy
    forward, rows = policy.forward, list[int]()

    def lacking(*arguments: object, **options: object) -> object:
        rows.append(int(options["input_ids"].shape[-1]))  # type: ignore[attr-defined]
        if len(rows) == 1:
            raise RuntimeError(said)
        return forward(*arguments, **options)

    monkeypatch.setattr(policy, "forward", lacking)
    next(trainer.steps())
    assert trainer.portions.most("sampling") == 2 and len(rows) > 1


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4)])
def test_a_run_learns_from_it_and_says_how_the_engine_compares(lora: LoraSettings | None) -> None:
    trainer = tiny_trainer(sampling={"engine": "continuous", "importance_cap": 2.0}, lora=lora)
    for point in trainer.steps():
        assert point.engine_ratio == pytest.approx(1.0, abs=1e-4)
        assert point.engine_kl_nats == pytest.approx(0.0, abs=1e-4)
        assert {"engine_ratio", "engine_kl_nats"} <= set(point.to_dict())
    assert point.kl_nats != 0.0
    assert evaluate(trainer, 4).response_tokens > 0
    plain = next(tiny_trainer().steps())
    assert "engine_ratio" not in plain.to_dict()


def test_weights_of_tokens_are_ratios_up_to_the_cap() -> None:
    trainer = tiny_trainer(sampling={"engine": "continuous", "importance_cap": 1.5})
    prompts = trainer.task.train_prompts
    _, observed = trainer.sample(prompts, torch.Generator().manual_seed(0))
    assert observed.engine_log_ratio is not None
    observed.engine_log_ratio[0, 0], observed.engine_log_ratio[0, 1] = 3.0, -1.0
    weights = trainer._importance(observed)
    assert isinstance(weights, Tensor)
    assert weights[0, :2].tolist() == pytest.approx([1.5, 0.36787944])
    assert torch.allclose(weights[1:], torch.ones(()), atol=1e-4)


def test_an_engine_that_samples_from_another_distribution_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(sampling={"engine": "continuous", "temperature": 0.2})
    hotter = SamplingSettings(response_tokens=6, engine="continuous", temperature=2.0)
    monkeypatch.setattr(trainer._engine, "_settings", hotter)
    with pytest.raises(
        TrialFailed, match=r"disagreement: at step 0 the engine's log-probabilities are .* nats a token"
    ):
        next(trainer.steps())
