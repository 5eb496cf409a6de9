"""One suite for every credit method: a new method is tested by being registered."""

import pytest
import torch

from shaping import METHODS, Certificate, Shape, Shaper
from tests.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    mixed_rollouts,
    scored_batch,
    tiny_reward_model,
    tiny_tokenizer,
)

every_method = pytest.mark.parametrize("name", sorted(METHODS))
# Between 2^2 and 2^6: mixed_rollouts() then has responses that are enumerated and responses that are sampled.
SMALL_BUDGET = 24
ENUMERATED = 2**12
# Their raw credit sums to the score; to the score without v(none); to nothing in particular.
SUM_TO_SCORE = {"sparse", "uniform", "random", "attention"}
SUM_TO_GAIN = {"prefix", "shapley", "kernel_shap"}


def credit_of(name, rollouts, unit="token", budget=SMALL_BUDGET, seed=0, max_units=6):
    batch = scored_batch(tiny_reward_model(), rollouts, unit, budget, seed, max_units=max_units)
    return METHODS[name].credit(batch)


def shaper_of(name, seed=0, **changes):
    options = {"weights": {name: 1.0}, "budget": SMALL_BUDGET, "max_units": 6, **changes}
    return Shaper(Shape(**options), tiny_reward_model(), tiny_tokenizer(), seed)


def same_start(tail):
    """Return rollouts whose first four tokens never differ."""
    return make_rollouts([[BOS, 30]], [[*encode("the film was good")[:4], *tail]])


def test_registry_names_are_the_methods_own():
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert {name for name, method in METHODS.items() if method.causal} == {"sparse", "prefix"}


@every_method
@pytest.mark.parametrize("unit", ["token", "span", "sentence"])
def test_credit_is_finite_and_zero_on_padding(name, unit):
    rollouts = mixed_rollouts()
    credit = credit_of(name, rollouts, unit)
    for values in (credit.values, credit.standard_error):
        if values is not None:
            assert values.shape == rollouts.response_mask.shape
            assert bool(torch.isfinite(values).all())
            assert not values[~rollouts.response_mask].any()
    assert not credit.values[rollouts.response_tokens == 0].any()
    # Row 3 is the longest response: whatever the method, some token of it earns something. One sentence alone is
    # too far from its absence for LIME's kernel.
    if (name, unit) != ("lime", "sentence"):
        assert float(credit.values[3].abs().max()) > 1e-3


@every_method
@pytest.mark.parametrize("row", range(7))
def test_batch_of_one_response(name, row):
    rollouts = mixed_rollouts().select(torch.tensor([row]))
    credit = credit_of(name, rollouts, "span", ENUMERATED)
    assert bool(torch.isfinite(credit.values).all())
    together = credit_of(name, mixed_rollouts(), "span", ENUMERATED)
    if name != "random":
        torch.testing.assert_close(credit.values[0], together.values[row], atol=2e-5, rtol=0)


@every_method
def test_credit_of_chosen_rows_does_not_depend_on_the_others(name):
    if name == "random":
        pytest.skip("its draws follow the batch")
    rollouts, rows = mixed_rollouts(), torch.tensor([4, 0, 2])
    whole = credit_of(name, rollouts, budget=ENUMERATED)
    part = credit_of(name, rollouts.select(rows), budget=ENUMERATED)
    torch.testing.assert_close(part.values, whole.values[rows], atol=2e-5, rtol=0)


@every_method
@pytest.mark.parametrize("budget", [SMALL_BUDGET, ENUMERATED])
def test_raw_credit_sums_to_what_the_method_promises(name, budget):
    rollouts = mixed_rollouts()
    batch = scored_batch(tiny_reward_model(), rollouts, "token", budget, max_units=6)
    total = METHODS[name].credit(batch).values.sum(dim=1)
    if name in SUM_TO_SCORE:
        expected = torch.where(rollouts.response_tokens > 0, batch.scores, 0)
    elif name in SUM_TO_GAIN:
        # With nothing but its special tokens left, a response is scored as v(none).
        only_special = [[token for token in row if token == EOS] for row in rollouts.response_ids.tolist()]
        prompts = [ids[mask].tolist() for ids, mask in zip(rollouts.prompt_ids, rollouts.prompt_mask, strict=True)]
        bare = only_special if name != "prefix" else [[] for _ in only_special]
        expected = batch.scores - tiny_reward_model().prefix_scores(make_rollouts(prompts, bare))[:, -1]
    else:
        pytest.skip("a local fit sums to nothing in particular")
    torch.testing.assert_close(total, expected, atol=5e-5, rtol=0)


@every_method
def test_same_seed_gives_same_rewards(name):
    rollouts = mixed_rollouts()
    one, other = (shaper_of(name, seed=7)(rollouts).token_rewards for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["random", "shapley", "kernel_shap", "lime"])
def test_other_seed_and_next_batch_draw_anew(name):
    rollouts, shaper = mixed_rollouts(), shaper_of(name, seed=7, unit="token", max_units=20)
    first, second = shaper(rollouts).token_rewards, shaper(rollouts).token_rewards
    other = shaper_of(name, seed=8, unit="token", max_units=20)(rollouts).token_rewards
    assert float((first - second).abs().max()) > 1e-3
    assert float((first - other).abs().max()) > 1e-3


@every_method
@pytest.mark.parametrize("closure", ["last", "spread"])
@pytest.mark.parametrize("adjusted", [False, True])
def test_token_rewards_sum_to_the_scores(name, closure, adjusted):
    rollouts = mixed_rollouts()
    adjustment = torch.linspace(-2, 1, len(rollouts)) if adjusted else None
    shaper = shaper_of(name, closure=closure, balance=0.7)
    shaped = shaper(rollouts, adjustment)
    scores = tiny_reward_model().prefix_scores(rollouts)[:, -1] + (adjustment if adjusted else 0)
    torch.testing.assert_close(shaped.scores, scores)
    expected = torch.where(rollouts.response_tokens > 0, scores, 0)
    torch.testing.assert_close(shaped.token_rewards.sum(dim=1), expected, atol=1e-5, rtol=0)
    assert not shaped.token_rewards[~rollouts.response_mask].any()
    certificate = Certificate.empty(shaper.shape).including(shaped.token_rewards, shaped.scores, rollouts)
    assert certificate.return_preserving
    assert certificate.responses == 6


@every_method
def test_credit_before_a_change_stays_only_for_causal_methods(name):
    one, other = (
        credit_of(name, same_start(encode(tail)), budget=ENUMERATED).values[0, :4] for tail in ("bad.", "great!")
    )
    change = float((one - other).abs().max())
    if METHODS[name].causal:
        assert change < 1e-5
    else:
        assert change > 1e-2


@pytest.mark.parametrize("closure", ["last", "spread"])
@every_method
def test_shape_certified_as_causal_rewards_early_tokens_alike_however_the_response_goes_on(name, closure):
    shaper = shaper_of(name, closure=closure)
    if not Certificate.empty(shaper.shape).is_causal:
        pytest.skip("not certified")
    short = shaper(same_start(encode("bad.")))
    long = shaper(same_start(encode("great acting, dull plot.")), torch.tensor([-1.5]))
    torch.testing.assert_close(short.token_rewards[0, :4], long.token_rewards[0, :4], atol=1e-5, rtol=0)


@every_method
def test_ids_on_padding_do_not_matter(name):
    rollouts, other = mixed_rollouts(), mixed_rollouts()
    other.prompt_ids[~other.prompt_mask] = 77
    other.response_ids[~other.response_mask] = 88
    one, two = (credit_of(name, given, "span").values for given in (rollouts, other))
    torch.testing.assert_close(one, two, atol=2e-5, rtol=0)


@every_method
def test_inputs_are_left_as_they_were(name):
    rollouts, before = mixed_rollouts(), mixed_rollouts()
    batch = scored_batch(tiny_reward_model(), rollouts, budget=SMALL_BUDGET)
    scores, index = batch.scores.clone(), batch.unit_index.clone()
    METHODS[name].credit(batch)
    assert torch.equal(batch.scores, scores)
    assert torch.equal(batch.unit_index, index)
    assert torch.equal(rollouts.response_ids, before.response_ids)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.by_units])
def test_credit_of_units_stands_on_their_last_tokens(name):
    rollouts = mixed_rollouts()
    batch = scored_batch(tiny_reward_model(), rollouts, "span", ENUMERATED)
    values = METHODS[name].credit(batch).values
    following = torch.cat([batch.unit_index[:, 1:], torch.full((len(rollouts), 1), -1)], dim=1)
    last = (batch.unit_index >= 0) & (batch.unit_index != following)
    assert not values[~last].any()
    assert bool((values[last].abs() > 1e-6).all())


@every_method
def test_costs_are_counted(name):
    batch = scored_batch(tiny_reward_model(), mixed_rollouts(), "span", SMALL_BUDGET)
    credit = METHODS[name].credit(batch)
    assert (credit.coalitions > 0) == METHODS[name].by_units
    assert (credit.forwarded_tokens > 0) == (METHODS[name].by_units or name == "attention")
