"""Several tokens that end a response: where the library's own generate ends, sampling, penalties and checks end too."""

from __future__ import annotations

import pytest
import torch

from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.evaluation import evaluate
from pipeline.trainers.ppo.health import check_responses
from pipeline.trainers.ppo.rollout import sample_responses
from pipeline.trainers.ppo.settings import PPOSettings
from shaping.errors import TrialFailed
from tests.support.models.tiny_models import BOS, EOS, make_rollouts, real_ids, tiny_policy
from tests.support.models.tiny_task import tiny_task, tiny_trainer

VOCABULARY = 8
PROMPTS = make_rollouts([[BOS], [BOS, 3, 4, 5, 6], [BOS, 7, 3], [BOS, 4, 4, 4, 4, 5]] * 2, [[3]] * 8)
ENDS = [EOS, 5, 6]


@pytest.mark.parametrize("ends", [[EOS], [5, EOS], ENDS, [6]])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_responses_end_where_the_librarys_generate_ends(ends: list[int], seed: int) -> None:
    policy = tiny_policy(seed, vocabulary=VOCABULARY)
    uniforms = torch.full((10, len(PROMPTS)), 0.5)
    # So cold that only the likeliest token is ever drawn.
    given = (PROMPTS.prompt_ids, PROMPTS.prompt_mask, uniforms, ends, True, 1e-5)
    found, uncached = (sample_responses(policy, *given, cached=cached).rollouts for cached in (True, False))
    options = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": ends, "pad_token_id": 0}
    for row in range(len(PROMPTS)):
        prompt, response = real_ids(found, row)
        whole = policy.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **options)
        assert response == whole[0, len(prompt) :].tolist() == real_ids(uncached, row)[1]


@torch.no_grad()
def test_no_end_is_sampled_where_responses_have_full_length() -> None:
    policy = tiny_policy(vocabulary=VOCABULARY)
    uniforms = torch.rand(12, len(PROMPTS), generator=torch.Generator().manual_seed(0))
    sampled = sample_responses(policy, PROMPTS.prompt_ids, PROMPTS.prompt_mask, uniforms, ENDS, False).rollouts
    assert bool(sampled.response_mask.all()) and not set(sampled.response_ids.unique().tolist()) & set(ENDS)
    # What is left of the distribution is what they would have had.
    log_probs = Actor(policy, None, ENDS)(sampled).log_probs[0].exp()
    prompt, response = real_ids(sampled, 0)
    for place in range(len(response)):
        logits = policy(torch.tensor([prompt + response[:place]])).logits[0, -1]
        logits[ENDS] = -torch.inf
        assert float(log_probs[place]) == pytest.approx(float(logits.softmax(0)[response[place]]), rel=1e-4)


def test_no_end_costs_the_penalty_for_a_missing_one() -> None:
    sampling = {"stop_at_eos": True, "missing_eos_penalty": 0.7}
    trainer = tiny_trainer(task=tiny_task(more_end_token_ids=(9,)), sampling=sampling)
    rollouts = make_rollouts([[BOS]] * 4, [[5, EOS], [5, 9], [9], [5, 6]])
    found = trainer.missing_eos_adjustment(rollouts)
    assert found is not None and (-found).tolist() == pytest.approx([0, 0, 0, 0.7])


def test_training_and_evaluation_end_at_every_end() -> None:
    task = tiny_task(more_end_token_ids=tuple(range(3, 40)))
    trainer = tiny_trainer(task=task, sampling={"stop_at_eos": True, "response_tokens": 20}, collapse_share=1.0)
    rollouts, _ = trainer.sample(trainer._prompts(0), torch.Generator().manual_seed(0))
    for row in range(len(rollouts)):
        _, response = real_ids(rollouts, row)
        assert not set(response[:-1]) & set(task.end_token_ids)
    alone = tiny_trainer(task=tiny_task(), sampling={"stop_at_eos": True, "response_tokens": 20}, collapse_share=1.0)
    assert evaluate(trainer, 8).response_tokens < evaluate(alone, 8).response_tokens
    trainer.step(0)


def test_responses_of_ends_alone_are_empty() -> None:
    settings = PPOSettings(steps=2, batch_size=2)
    check_responses(0, make_rollouts([[BOS]] * 2, [[EOS], [5]]), EOS, settings)
    with pytest.raises(TrialFailed, match="every response of step 0 is empty"):
        check_responses(0, make_rollouts([[BOS]] * 2, [[EOS], [5]]), [EOS, 5], settings)
