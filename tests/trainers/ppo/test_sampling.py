import pytest
import torch

from pipeline.tasks.models.calibration import own_samples
from pipeline.trainers.ppo.actor import Actor
from pipeline.trainers.ppo.rollout import _draw, sample_responses
from tests.support.models.tiny_models import BOS, EOS, make_rollouts, real_ids, tiny_policy

# So small that end-of-sequence comes often.
VOCABULARY = 8
PROMPTS = make_rollouts([[BOS], [BOS, 3, 4, 5, 6], [BOS, 7, 3], [BOS, 4, 4, 4, 4, 5]] * 4, [[3]] * 16)
EVEN = make_rollouts([[BOS, 3, 4], [BOS, 5, 5]] * 6, [[3]] * 12)


def uniforms(tokens, rows, seed):
    return torch.rand(tokens, rows, generator=torch.Generator().manual_seed(seed))


def sample(given=PROMPTS, tokens=12, seed=0, stop_at_eos=True, temperature=1.0, policy=None):
    return sample_responses(
        policy or tiny_policy(vocabulary=VOCABULARY),
        given.prompt_ids,
        given.prompt_mask,
        uniforms(tokens, len(given), seed),
        EOS,
        stop_at_eos,
        temperature,
    ).rollouts


def next_distribution(policy, ids, banned, temperature):
    """Return the distribution after an unpadded row, from one forward pass without a cache."""
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] / temperature
    if banned is not None:
        logits[banned] = -torch.inf
    return logits.softmax(dim=-1)


@pytest.mark.parametrize("given", [PROMPTS, EVEN], ids=["padded", "even"])
@pytest.mark.parametrize(("stop_at_eos", "temperature"), [(True, 1.0), (False, 1.0), (True, 0.6), (False, 1.8)])
def test_every_token_is_the_one_that_its_random_number_picks_without_a_cache(given, stop_at_eos, temperature):
    policy = tiny_policy(vocabulary=VOCABULARY)
    sampled = sample(given, stop_at_eos=stop_at_eos, temperature=temperature)
    draws = uniforms(12, len(given), 0)
    for row in range(len(given)):
        prompt, response = real_ids(sampled, row)
        for position, token in enumerate(response):
            ids = prompt + response[:position]
            probability = next_distribution(policy, ids, None if stop_at_eos else EOS, temperature)
            below, draw = float(probability[:token].sum()), float(draws[position][row])
            assert below - 1e-5 <= draw <= below + float(probability[token]) + 1e-5


def test_responses_end_at_the_first_end_of_sequence():
    sampled = sample()
    lengths = sampled.response_tokens.tolist()
    assert len(set(lengths)) > 3
    for row, length in enumerate(lengths):
        _, response = real_ids(sampled, row)
        assert EOS not in response[:-1]
        assert response[-1] == EOS or length == 12
        assert set(sampled.response_ids[row, length:].tolist()) <= {EOS}
    assert torch.equal(sampled.prompt_ids, PROMPTS.prompt_ids)
    assert torch.equal(sampled.prompt_mask, PROMPTS.prompt_mask)


def test_sampling_stops_once_every_response_has_ended():
    sampled = sample(PROMPTS.select(torch.tensor([0, 1])), tokens=50, seed=2)
    assert sampled.response_ids.shape[1] == int(sampled.response_tokens.max()) < 50


@pytest.mark.parametrize("stop_at_eos", [True, False])
@pytest.mark.parametrize(("batch", "sizes"), [(None, [16]), (6, [6, 6, 4])])
def test_batches_of_a_policys_own_samples_share_one_row_of_random_numbers(batch, sizes, stop_at_eos):
    policy, generator = tiny_policy(vocabulary=VOCABULARY), torch.Generator().manual_seed(5)
    prompts = [real_ids(PROMPTS, row)[0] for row in range(len(PROMPTS))]
    sampled = own_samples(policy, prompts, 12, EOS, stop_at_eos, seed=5, temperature=0.7, batch=batch)
    row = 0
    for size in sizes:
        part, draws = PROMPTS.select(torch.arange(row, row + size)), torch.rand(12, size, generator=generator)
        given = part.prompt_ids, part.prompt_mask, draws, EOS, stop_at_eos
        expected = sample_responses(policy, *given, temperature=0.7).rollouts
        for place in range(size):
            assert real_ids(sampled, row) == real_ids(expected, place)
            row += 1
    assert row == len(sampled) == len(PROMPTS)


@pytest.mark.parametrize("eos", range(VOCABULARY))
def test_banned_token_is_never_sampled_and_responses_have_full_length(eos):
    sampled = sample_responses(
        tiny_policy(vocabulary=VOCABULARY),
        PROMPTS.prompt_ids,
        PROMPTS.prompt_mask,
        uniforms(10, 16, 1),
        eos,
        stop_at_eos=False,
    ).rollouts
    assert bool(sampled.response_mask.all())
    assert sampled.response_ids.shape == (16, 10)
    assert eos not in sampled.response_ids


def test_frequencies_follow_the_distribution():
    count = 20_000
    policy, prompt = tiny_policy(vocabulary=VOCABULARY), [BOS, 5, 3]
    sampled = sample(make_rollouts([prompt] * count, [[3]] * count), tokens=1, seed=3)
    frequency = torch.bincount(sampled.response_ids[:, 0], minlength=VOCABULARY) / count
    probability = next_distribution(policy, prompt, None, 1.0)
    deviation = (probability * (1 - probability) / count).sqrt()
    assert float(((frequency - probability).abs() / deviation.clamp(min=1e-4)).max()) < 4


@pytest.mark.parametrize("stop_at_eos", [True, False])
def test_actor_gives_sampled_tokens_the_probability_they_were_sampled_with(stop_at_eos):
    policy = tiny_policy(vocabulary=VOCABULARY)
    sampled = sample(stop_at_eos=stop_at_eos, temperature=0.8)
    with torch.no_grad():
        log_probs = Actor(policy, None, None if stop_at_eos else EOS, 0.8)(sampled).log_probs
    for row in range(0, len(sampled), 3):
        prompt, response = real_ids(sampled, row)
        for position, token in enumerate(response):
            ids = prompt + response[:position]
            probability = next_distribution(policy, ids, None if stop_at_eos else EOS, 0.8)[token]
            assert float(log_probs[row, position]) == pytest.approx(float(probability.log()), abs=1e-4)


def test_same_seed_gives_the_same_responses_and_another_seed_others():
    assert torch.equal(sample(seed=5).response_ids, sample(seed=5).response_ids)
    one, other = sample(seed=5, stop_at_eos=False), sample(seed=6, stop_at_eos=False)
    assert not torch.equal(one.response_ids, other.response_ids)


def test_response_does_not_depend_on_the_padding_of_its_prompt():
    wide = make_rollouts([[BOS, 7, 3], [BOS, 4, 4, 4, 4, 5, 3, 3]], [[3], [3]])
    narrow = make_rollouts([[BOS, 7, 3], [BOS, 4]], [[3], [3]])
    one, other = (sample(given, stop_at_eos=False).response_ids[0] for given in (wide, narrow))
    assert torch.equal(one, other)


def test_sampled_responses_can_be_trained_on():
    policy = tiny_policy(vocabulary=VOCABULARY)
    Actor(policy, None, None)(sample(policy=policy)).log_probs.sum().backward()
    assert float(policy.lm_head.weight.grad.abs().max()) > 0


@pytest.mark.parametrize(("banned", "draw"), [(0, 0.0), (7, 1 - 2**-24), (3, 0.5)])
def test_random_number_at_the_edge_does_not_pick_a_banned_token(banned, draw):
    tokens = _draw(torch.zeros(2, VOCABULARY), torch.full((2,), draw), banned)
    expected = {0: 1, 7: 6, 3: 4}[banned]
    assert tokens.tolist() == [expected, expected]
