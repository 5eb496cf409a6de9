"""Conversations of several turns: reward falls on what the policy wrote, whoever answered in between."""

from itertools import combinations, pairwise, product

import pytest
import torch

from shaping import METHODS, Certificate, Rollouts, Shape, ShapeError, Shaper, UnitSplitter
from shaping.rollouts import place_on_last_token
from shaping.shape import CLOSURES, UNITS
from shaping.turns import on_policy_tokens, on_turn_ends, turn_ends
from tests.support.models.retokenized import reward_model
from tests.support.models.tiny_families import byte_tokenizer
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    encode,
    make_rollouts,
    plain_score,
    real_ids,
    tiny_classifier,
    tiny_reward_model,
    tiny_tokenizer,
)

pytestmark = pytest.mark.slow

every_method = pytest.mark.parametrize("name", sorted(METHODS))
PROMPT = [BOS, *encode("the film")]
ANSWER, TOOL = True, False
# What the policy wrote and what was answered, in order; rows end and begin with either.
CONVERSATIONS = [
    [(ANSWER, "was good, the plot"), (TOOL, "why?"), (ANSWER, "great cast!"), (TOOL, "a dull end."), (ANSWER, "bad.")],
    [(ANSWER, "good acting."), (TOOL, "the music was bad")],
    [(TOOL, "i liked it"), (ANSWER, "a film")],
    [(TOOL, "why?")],
    [(ANSWER, "great!")],
]


def conversation(parts, end=True):
    """Return ids and policy mask; the policy ends each of its turns with end-of-sequence."""
    ids, mask = [], []
    for own, text in parts:
        tokens = [*encode(text), *([EOS] if own and end else [])]
        ids, mask = ids + tokens, mask + [int(own)] * len(tokens)
    return ids, mask


def conversations(end=True):
    rows = [conversation(parts, end) for parts in CONVERSATIONS]
    return Rollouts.of_ids([PROMPT] * len(rows), [ids for ids, _ in rows], policy_masks=[mask for _, mask in rows])


def shaper_of(name, judge=None, tokenizer=None, **changes):
    options = {"budget": 2**10, "max_units": 8, **changes}
    model = judge or tiny_reward_model()
    return Shaper(Shape(weights={name: 1.0}, **options), model, tokenizer or tiny_tokenizer())


def turns_of(row):
    """Return the first and the last place of each turn, found by walking along the row."""
    mask, found = [own for _, own in zip(*conversation(CONVERSATIONS[row]), strict=True)], []
    for place, own in enumerate(mask):
        if own and (place == 0 or not mask[place - 1]):
            found.append([place, place])
        elif own:
            found[-1][1] = place
    return found


def score_of(ids):
    return plain_score(tiny_classifier(), PROMPT + ids)


@every_method
@pytest.mark.parametrize(("unit", "closure", "balance"), product(UNITS, CLOSURES, [1.0, 0.6]))
def test_reward_falls_on_the_policys_tokens_alone_and_keeps_its_sum(name, unit, closure, balance):
    rollouts, shaper = conversations(), shaper_of(name, unit=unit, closure=closure, balance=balance)
    rewards = shaper(rollouts)
    assert rewards.shape == rollouts.response_ids.shape
    assert not rewards[~rollouts.policy_mask].any()
    scores = torch.tensor([score_of(real_ids(rollouts, row)[1]) for row in range(len(rollouts))])
    scores[3] = 0  # the policy wrote nothing: there is no place for a reward
    torch.testing.assert_close(rewards.sum(dim=1), scores, atol=1e-5, rtol=0)
    certificate = Certificate.empty(shaper.shape).including(rewards, scores, rollouts)
    assert certificate.return_preserving and certificate.responses == 4


@every_method
def test_turns_are_rewarded_on_their_last_tokens(name):
    rollouts = conversations()
    rewards = shaper_of(name, unit="turn")(rollouts)
    ends = [last for _, last in turns_of(0)]
    elsewhere = [place for place in range(rewards.shape[1]) if place not in ends]
    assert not rewards[0, elsewhere].any()
    assert bool(rewards[0, ends].abs().gt(1e-4).all()) or name == "sparse"


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_shapley_values_of_turns_are_those_of_the_game_of_their_texts(method):
    rollouts = conversations()
    ids, mask = conversation(CONVERSATIONS[0])
    turns = turns_of(0)
    # The end of each turn and what was answered is always there; the players are the policy's words.
    player = [None] * len(ids)
    for index, (first, last) in enumerate(turns):
        player[first:last] = [index] * (last - first)
    worth = {
        present: score_of([token for token, own in zip(ids, player, strict=True) if own is None or own in present])
        for size in range(4)
        for present in map(frozenset, combinations(range(3), size))
    }
    expected = []
    for index in range(3):
        others = [present for present in worth if index not in present]
        weight = {0: 1 / 3, 1: 1 / 6, 2: 1 / 3}
        expected.append(sum(weight[len(each)] * (worth[each | {index}] - worth[each]) for each in others))
    expected[-1] += worth[frozenset()]  # what no turn explains is closed on the last token
    assert mask == rollouts.policy_mask[0][: len(mask)].long().tolist()
    found = shaper_of(method, unit="turn")(rollouts)[0, [last for _, last in turns]]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_prefix_gives_what_an_answer_changed_to_the_token_that_was_answered():
    rollouts = conversations()
    rewards = shaper_of("prefix", unit="token")(rollouts)
    for row in (0, 1, 2):
        ids, mask = conversation(CONVERSATIONS[row])
        expected, last, before = [0.0] * len(ids), None, score_of([])
        lost = before
        for place, own in enumerate(mask):
            after = score_of(ids[: place + 1])
            last = place if own else last
            if last is None:
                lost += after - before
            else:
                expected[last] += after - before
            before = after
        expected[last] += lost
        assert rewards[row, : len(ids)].tolist() == pytest.approx(expected, abs=1e-4)


def test_prefix_by_turns_is_what_each_turn_and_its_answer_changed():
    rewards = shaper_of("prefix", unit="turn")(conversations())
    ids, _ = conversation(CONVERSATIONS[0])
    turns = turns_of(0)
    states = [0, *(first for first, _ in turns[1:]), len(ids)]
    worth = [score_of(ids[:state]) for state in states]
    expected = [after - before for before, after in pairwise(worth)]
    expected[-1] += worth[0]
    assert rewards[0, [last for _, last in turns]].tolist() == pytest.approx(expected, abs=1e-4)


def test_prefix_rewards_of_a_turn_do_not_depend_on_the_turns_to_come():
    whole = shaper_of("prefix", unit="token")(conversations())[0]
    ids, mask = conversation(CONVERSATIONS[0][:2])
    ids, mask = ids + encode("good"), [*mask, 1]
    other = shaper_of("prefix", unit="token")(Rollouts.of_ids([PROMPT], [ids], policy_masks=[mask]))[0]
    first, last = turns_of(0)[0]
    assert whole[first : last + 1].tolist() == pytest.approx(other[first : last + 1].tolist(), abs=1e-5)


@pytest.mark.parametrize("unit", ["token", "span", "sentence", "turn"])
def test_no_unit_reaches_over_an_answer(unit):
    rollouts = conversations(end=False)
    index = UnitSplitter(tiny_tokenizer()).split(rollouts, unit, max_span=100, max_units=100)
    assert bool(((index >= 0) == rollouts.policy_mask).all())
    turn = torch.where(turn_ends(rollouts), 1, 0).cumsum(dim=1) - torch.where(turn_ends(rollouts), 1, 0)
    for row in range(len(rollouts)):
        own = rollouts.policy_mask[row]
        pairs = set(zip(index[row][own].tolist(), turn[row][own].tolist(), strict=True))
        assert len(pairs) == len({unit for unit, _ in pairs})
        if unit == "turn":
            assert len(pairs) == len({turn for _, turn in pairs})


def test_one_turn_by_turns_is_sparse_and_by_tokens_what_it_is_without_a_mask():
    ids, _ = conversation([(ANSWER, "good acting, a dull film.")])
    plain = Rollouts.of_ids([PROMPT], [ids])
    masked = Rollouts.of_ids([PROMPT], [ids], policy_masks=[[1] * len(ids)])
    for name in sorted(METHODS):
        assert torch.equal(shaper_of(name, unit="span")(plain), shaper_of(name, unit="span")(masked))
        turn = shaper_of(name, unit="turn")(plain)
        torch.testing.assert_close(turn, shaper_of("sparse")(plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("name", ["prefix", "shapley", "attention", "gradient"])
def test_a_reward_model_of_another_tokenizer_keeps_off_the_answers_too(name, kind):
    rows = [
        [(own, byte_tokenizer()(text, add_special_tokens=False)["input_ids"]) for own, text in parts]
        for parts in CONVERSATIONS
    ]
    ids = [[token for _, part in parts for token in part] for parts in rows]
    masks = [[int(own) for own, part in parts for _ in part] for parts in rows]
    rollouts, model = Rollouts.of_ids([[5]] * len(ids), ids, policy_masks=masks), reward_model(kind)
    shaped = shaper_of(name, model, byte_tokenizer()).shaped(rollouts)
    assert not shaped.token_rewards[~rollouts.policy_mask].any()
    expected = shaped.scores * (rollouts.policy_tokens > 0)
    torch.testing.assert_close(shaped.token_rewards.sum(dim=1), expected, atol=1e-4, rtol=0)
    assert int((shaped.token_rewards[0].abs() > 1e-4).sum()) > 1


def test_values_move_to_where_they_belong():
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0]]).bool()
    ids, everything = torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7).bool()
    rollouts = Rollouts(ids, everything, ids, everything, mask)
    values = torch.tensor([[1.0, 2, 4, 8, 16, 32, 64]])
    assert on_policy_tokens(values, rollouts).tolist() == [[0, 2, 28, 0, 0, 96, 0]]
    assert on_turn_ends(values * mask, rollouts).tolist() == [[0, 0, 6, 0, 0, 32, 0]]
    assert turn_ends(rollouts).long().tolist() == [[0, 0, 1, 0, 0, 1, 0]]
    assert place_on_last_token(torch.tensor([3.0]), rollouts).tolist() == [[0, 0, 0, 0, 0, 3, 0]]
    assert rollouts.policy_tokens.tolist() == [3] and rollouts.last_policy_token.tolist() == [5]


def test_policy_mask_travels_with_its_rows():
    rollouts = conversations()
    assert torch.equal(rollouts.select(torch.tensor([2, 0])).policy_mask, rollouts.policy_mask[[2, 0]])
    assert torch.equal(rollouts.first(3).policy_mask, rollouts.policy_mask[:, :3])
    ended = rollouts.ending_with(EOS)
    assert torch.equal(ended.policy_mask[:, :-1], rollouts.policy_mask) and not ended.policy_mask[:, -1].any()
    assert not (ended.policy_mask & ~rollouts.ending_with(EOS).response_mask).any()


def test_reward_on_an_answer_breaks_the_certificate():
    rollouts = conversations()
    shaper = shaper_of("prefix")
    shaped = shaper.shaped(rollouts)
    good = Certificate.empty(shaper.shape).including(shaped.token_rewards, shaped.scores, rollouts)
    moved = shaped.token_rewards.clone()
    place = int((~rollouts.policy_mask[0]).nonzero()[0, 0])
    moved[0, place] += 0.01
    astray = Certificate.empty(shaper.shape).including(moved, shaped.scores, rollouts)
    assert good.return_preserving and not astray.return_preserving
    moved[0, 0] -= 0.01  # the row sums to its score again
    assert not Certificate.empty(shaper.shape).including(moved, shaped.scores, rollouts).return_preserving


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 2), r"policy_mask must be B x T .*float32"),
        (torch.ones(1, 3).bool(), r"policy_mask must be B x T .*\(1, 3\)"),
        (torch.ones(1, 2).bool(), "policy_mask is true on padding"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(mask, message):
    ids, real = torch.zeros(1, 2, dtype=torch.long), torch.tensor([[True, False]])
    with pytest.raises(ShapeError, match=message):
        Rollouts(ids, torch.ones(1, 2).bool(), ids, real, mask)


def test_masks_of_other_lengths_than_their_responses_are_refused():
    with pytest.raises(ShapeError, match=r"policy_masks has rows of \[1\] tokens, but responses of \[2\]"):
        Rollouts.of_ids([[1]], [[2, 3]], policy_masks=[[1]])


@every_method
def test_given_scores_take_the_place_of_the_reward_models(name):
    rollouts, shaper = conversations(), shaper_of(name)
    given = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0])
    rewards = shaper(rollouts, given)
    expected = given * (rollouts.policy_tokens > 0)
    torch.testing.assert_close(rewards.sum(dim=1), expected, atol=1e-5, rtol=0)
    own = shaper_of(name).shaped(rollouts)
    again = shaper_of(name)(rollouts, own.scores)
    torch.testing.assert_close(again, own.token_rewards, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2), r"scores must have one value a response, 3, but got \(2,\)"),
        (torch.zeros(3, 1), r"but got \(3, 1\)"),
        (torch.tensor([0.0, float("nan"), 1.0]), r"scores\[1\] = nan is not a finite number"),
    ],
)
def test_scores_that_cannot_be_summed_to_are_refused(scores, message):
    rollouts = make_rollouts([[BOS]] * 3, [encode("good")] * 3)
    with pytest.raises(ShapeError, match=message):
        shaper_of("prefix")(rollouts, scores)
