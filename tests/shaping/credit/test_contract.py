"""One suite for every credit method: a new method is tested by being registered."""

import pytest
import torch

from shaping import METHODS, Certificate, Shape, Shaper, find_credits
from shaping.shape import CLOSURES
from shaping.units import unit_counts
from tests.support.models.tiny_models import (
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
# By tokens mixed_rollouts() has responses of 2 and 8 units, which are enumerated, and of 11 and 18, which are sampled.
SAMPLED = {"budget": 24, "max_units": 20}
# Enough for all coalitions of six units, and for those of tokens inside them.
ENUMERATED = {"budget": 2**12, "max_units": 6}
# Their raw credit sums to the score; to the score without v(none); to nothing in particular.
SUM_TO_SCORE = {"sparse", "uniform", "random", "attention"}
SUM_TO_GAIN = {"prefix", "shapley", "owen", "kernel_shap"}


def credit_of(name, rollouts, unit="token", seed=0, **options):
    batch = scored_batch(tiny_reward_model(), rollouts, unit, seed=seed, **{**SAMPLED, **options})
    return METHODS[name].credit(batch)


def shaper_of(name, seed=0, **changes):
    options = {"weights": {name: 1.0}, "unit": "token", **SAMPLED, **changes}
    return Shaper(Shape(**options), tiny_reward_model(), tiny_tokenizer(), seed)


def same_start(tail):
    """Return rollouts whose first four tokens never differ."""
    return make_rollouts([[BOS, 30]], [[*encode("the film was good")[:4], *tail]])


def test_registry_names_are_the_methods_own():
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert {name for name, method in METHODS.items() if method.causal} == {"sparse", "prefix"}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.by_units])
def test_suite_has_both_enumerated_and_sampled_responses(name):
    batch = scored_batch(tiny_reward_model(), mixed_rollouts(), "token", **SAMPLED)
    counts = unit_counts(batch.unit_index)
    assert counts.tolist() == [0, 1, 2, 18, 11, 0, 8]
    drawn = {int(counts[row]) for group in METHODS[name].plan(batch) if not group.complete for row in group.rows}
    assert drawn == {11, 18}
    batch = scored_batch(tiny_reward_model(), mixed_rollouts(), "token", **ENUMERATED)
    assert all(group.complete for group in METHODS[name].plan(batch))


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
    # Row 3 is the longest response: whatever the method, some token of it earns something.
    assert float(credit.values[3].abs().max()) > 1e-3


@every_method
@pytest.mark.parametrize("row", range(7))
def test_batch_of_one_response(name, row):
    rollouts = mixed_rollouts().select(torch.tensor([row]))
    credit = credit_of(name, rollouts, "span", **ENUMERATED)
    assert bool(torch.isfinite(credit.values).all())
    together = credit_of(name, mixed_rollouts(), "span", **ENUMERATED)
    if name != "random":
        torch.testing.assert_close(credit.values[0], together.values[row], atol=2e-5, rtol=0)


@every_method
def test_credit_of_chosen_rows_does_not_depend_on_the_others(name):
    if name == "random":
        pytest.skip("its draws follow the batch")
    rollouts, rows = mixed_rollouts(), torch.tensor([4, 0, 2])
    whole = credit_of(name, rollouts, **ENUMERATED)
    part = credit_of(name, rollouts.select(rows), **ENUMERATED)
    torch.testing.assert_close(part.values, whole.values[rows], atol=2e-5, rtol=0)


@every_method
@pytest.mark.parametrize("options", [SAMPLED, ENUMERATED])
def test_raw_credit_sums_to_what_the_method_promises(name, options):
    rollouts = mixed_rollouts()
    batch = scored_batch(tiny_reward_model(), rollouts, "token", **options)
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
        pytest.skip("a local fit and a quadrature sum to nothing that the game knows")
    torch.testing.assert_close(total, expected, atol=5e-5, rtol=0)


@every_method
def test_same_seed_gives_same_rewards(name):
    rollouts = mixed_rollouts()
    one, other = (shaper_of(name, seed=7)(rollouts) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["random", "shapley", "owen", "kernel_shap", "lime"])
def test_other_seed_and_next_batch_draw_anew(name):
    rollouts, shaper = mixed_rollouts(), shaper_of(name, seed=7)
    first, second = shaper(rollouts), shaper(rollouts)
    other = shaper_of(name, seed=8)(rollouts)
    assert float((first - second).abs().max()) > 1e-3
    assert float((first - other).abs().max()) > 1e-3


@every_method
@pytest.mark.parametrize("closure", CLOSURES)
@pytest.mark.parametrize("adjusted", [False, True])
def test_token_rewards_sum_to_the_scores(name, closure, adjusted):
    rollouts = mixed_rollouts()
    adjustment = torch.linspace(-2, 1, len(rollouts)) if adjusted else None
    shaper = shaper_of(name, closure=closure, balance=0.7)
    shaped = shaper.shaped(rollouts, adjustment=adjustment)
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
    one, other = (credit_of(name, same_start(encode(tail)), **ENUMERATED).values[0, :4] for tail in ("bad.", "great!"))
    change = float((one - other).abs().max())
    if METHODS[name].causal:
        assert change < 1e-5
    else:
        assert change > 1e-2


@pytest.mark.parametrize("closure", CLOSURES)
@every_method
def test_shape_certified_as_causal_rewards_early_tokens_alike_however_the_response_goes_on(name, closure):
    shaper = shaper_of(name, closure=closure)
    if not Certificate.empty(shaper.shape).is_causal:
        pytest.skip("not certified")
    short = shaper.shaped(same_start(encode("bad.")))
    long = shaper.shaped(same_start(encode("great acting, dull plot.")), adjustment=torch.tensor([-1.5]))
    torch.testing.assert_close(short.token_rewards[0, :4], long.token_rewards[0, :4], atol=1e-5, rtol=0)


@every_method
def test_ids_on_padding_do_not_matter(name):
    rollouts, other = mixed_rollouts(), mixed_rollouts()
    other.prompt_ids[~other.prompt_mask] = 77
    other.response_ids[~other.response_mask] = 88
    one, two = (credit_of(name, given).values for given in (rollouts, other))
    torch.testing.assert_close(one, two, atol=2e-5, rtol=0)


@every_method
def test_inputs_are_left_as_they_were(name):
    rollouts, before = mixed_rollouts(), mixed_rollouts()
    batch = scored_batch(tiny_reward_model(), rollouts, **SAMPLED)
    scores, index = batch.scores.clone(), batch.unit_index.clone()
    METHODS[name].credit(batch)
    assert torch.equal(batch.scores, scores)
    assert torch.equal(batch.unit_index, index)
    assert torch.equal(rollouts.response_ids, before.response_ids)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.by_units])
def test_credit_of_units_stands_on_their_last_tokens_and_of_tokens_inside_them_on_each(name):
    rollouts = mixed_rollouts()
    batch = scored_batch(tiny_reward_model(), rollouts, "span", **ENUMERATED)
    credit = METHODS[name].credit(batch)
    following = torch.cat([batch.unit_index[:, 1:], torch.full((len(rollouts), 1), -1)], dim=1)
    credited = batch.unit_index >= 0
    if name != "owen":
        credited = credited & (batch.unit_index != following)
    assert credit.unit == ("token" if name == "owen" else "span")
    assert not credit.values[~credited].any()
    assert bool((credit.values[credited].abs() > 1e-6).all())


@every_method
def test_costs_are_counted(name):
    batch = scored_batch(tiny_reward_model(), mixed_rollouts(), "span", **SAMPLED)
    credit = METHODS[name].credit(batch)
    assert (credit.coalitions > 0) == METHODS[name].by_units
    assert (credit.forwarded_tokens > 0) == (METHODS[name].by_units or name in ("attention", "gradient"))


@every_method
def test_standard_error_is_there_where_a_response_was_sampled_and_zero_where_it_was_not(name):
    rollouts = mixed_rollouts()
    assert credit_of(name, rollouts, **ENUMERATED).standard_error is None
    error = credit_of(name, rollouts, budget=80).standard_error
    if name not in ("shapley", "owen", "kernel_shap"):
        assert error is None
        return
    assert not error[[0, 1, 2, 5, 6]].any()
    member = scored_batch(tiny_reward_model(), rollouts, "token").unit_index >= 0
    assert float(error[3:5][member[3:5]].min()) > 0
    assert not error[~member].any()


@every_method
def test_methods_scored_together_give_what_each_gives_alone(name):
    # Nothing is drawn where all is enumerated, but for the one method that always draws.
    together = find_credits(scored_batch(tiny_reward_model(), mixed_rollouts(), **ENUMERATED), METHODS.values())[name]
    alone = credit_of(name, mixed_rollouts(), **ENUMERATED)
    torch.testing.assert_close(together.values, alone.values, atol=2e-5, rtol=0)
    assert (together.unit, together.coalitions) == (alone.unit, alone.coalitions)
    assert together.standard_error is None


@pytest.mark.parametrize("name", ["random", "shapley", "owen", "kernel_shap", "lime"])
def test_method_that_draws_gives_the_same_beside_methods_that_do_not(name):
    chosen = [METHODS[other] for other in (name, "sparse", "uniform", "prefix", "attention")]
    together = find_credits(scored_batch(tiny_reward_model(), mixed_rollouts(), **SAMPLED), chosen)[name]
    torch.testing.assert_close(together.values, credit_of(name, mixed_rollouts()).values, atol=2e-5, rtol=0)


class Counter:
    """A reward model that counts what its engine is asked for."""

    abilities = frozenset({"attention", "gradient", "prefix"})

    def __init__(self):
        self.inner, self.calls, self.variants, self.tokens = tiny_reward_model(), 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def score(self, variants):
        scored = self.inner.score(variants)
        self.calls, self.variants, self.tokens = (
            self.calls + 1,
            self.variants + len(variants),
            self.tokens + scored.forwarded_tokens,
        )
        return scored


def played_by(names, options):
    counter = Counter()
    credits = find_credits(scored_batch(counter, mixed_rollouts(), **options), [METHODS[name] for name in names])
    return counter, credits


def test_coalition_that_several_methods_want_is_forwarded_once():
    alone, _ = played_by(["shapley"], ENUMERATED)
    together, credits = played_by(["shapley", "kernel_shap", "lime"], ENUMERATED)
    assert (together.calls, together.variants, together.tokens) == (1, alone.variants, alone.tokens)
    # The three ask for the same: each pays a third.
    assert [credit.forwarded_tokens for credit in credits.values()] == [round(alone.tokens / 3)] * 3
    # Tokens inside units ask for the whole units' coalitions too.
    with_owen, _ = played_by(["shapley", "owen"], ENUMERATED)
    owen, _ = played_by(["owen"], ENUMERATED)
    assert with_owen.variants == owen.variants


@pytest.mark.parametrize("options", [SAMPLED, ENUMERATED])
def test_costs_of_methods_scored_together_add_up(options):
    names = ["shapley", "sparse", "owen", "kernel_shap", "lime"]
    counter, credits = played_by(names, options)
    assert abs(sum(credit.forwarded_tokens for credit in credits.values()) - counter.tokens) <= len(names) / 2
    wanted = {name: credit.coalitions for name, credit in credits.items()}
    assert wanted["sparse"] == 0
    for name in names:
        share = counter.tokens * wanted[name] / sum(wanted.values())
        assert credits[name].forwarded_tokens == pytest.approx(share, abs=0.5)
        assert wanted[name] == played_by([name], options)[1][name].coalitions


def test_methods_without_coalitions_score_none():
    counter, credits = played_by(["sparse", "uniform", "random", "prefix"], SAMPLED)
    assert (counter.calls, len(credits)) == (0, 4)
    assert played_by([], SAMPLED)[1] == {}
