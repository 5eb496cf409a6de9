from itertools import pairwise

import pytest
import torch

from shaping import METHODS, CausalRewardModel, ConfigError, RewardModel, Rollouts
from shaping.reward_models.base import MAX_TOKENS_ON_CPU
from shaping.variants import Variants
from tests.support.models.tiny_families import NOT_SHARING, SHARING, tiny_family
from tests.support.models.tiny_models import (
    BOS,
    EOS,
    SCORE_DEVIATION,
    SCORE_MEAN,
    encode,
    make_rollouts,
    mixed_rollouts,
    plain_score,
    real_ids,
    scored_batch,
    tiny_classifier,
    tiny_policy,
    tiny_reward_model,
)


def test_prefix_credit_equals_a_loop_of_forward_passes():
    rollouts, classifier = mixed_rollouts(), tiny_classifier()
    credit = METHODS["prefix"].credit(scored_batch(tiny_reward_model(), rollouts)).values
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        scores = [plain_score(classifier, prompt + response[:end]) for end in range(len(response) + 1)]
        expected = [after - before for before, after in pairwise(scores)]
        expected += [0.0] * (credit.shape[1] - len(expected))
        assert credit[row].tolist() == pytest.approx(expected, abs=2e-5)


def test_prefix_scores_repeat_the_last_one_on_padding():
    rollouts, classifier = mixed_rollouts(), tiny_classifier()
    scores = tiny_reward_model().prefix_scores(rollouts)
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        tail = scores[row, len(response) :].tolist()
        assert tail == pytest.approx([plain_score(classifier, prompt + response)] * len(tail), abs=1e-5)


def test_prefix_scores_do_not_depend_on_prompt_padding():
    prompts, response = [[BOS, 9], [BOS, 30, 31, 32, 33, 34]], encode("good film.")
    together = tiny_reward_model().prefix_scores(make_rollouts(prompts, [response, response]))
    for row, prompt in enumerate(prompts):
        alone = tiny_reward_model().prefix_scores(make_rollouts([prompt], [response]))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=0.05)


def test_ids_on_padding_change_nothing():
    rollouts, other = mixed_rollouts(), mixed_rollouts()
    other.prompt_ids[~other.prompt_mask] = 77
    other.response_ids[~other.response_mask] = 88
    model = tiny_reward_model()
    torch.testing.assert_close(model.prefix_scores(other), model.prefix_scores(rollouts), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.response_attention(other), model.response_attention(rollouts), atol=1e-6, rtol=0)


def test_attention_credit_equals_hugging_face_one_sequence_at_a_time():
    rollouts, eager = mixed_rollouts(), tiny_classifier(attention="eager")
    credit = METHODS["attention"].credit(scored_batch(tiny_reward_model(), rollouts)).values
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        expected = torch.zeros(credit.shape[1])
        if response:
            with torch.no_grad():
                output = eager(input_ids=torch.tensor([prompt + response]), output_attentions=True)
            to_response = output.attentions[-1][0].mean(dim=0)[-1, len(prompt) :]
            score = (float(output.logits) - SCORE_MEAN) / SCORE_DEVIATION
            expected[: len(response)] = to_response / to_response.sum() * score
        torch.testing.assert_close(credit[row], expected, atol=1e-5, rtol=0)


def test_attention_leaves_the_attention_implementation_as_it_was():
    model = tiny_reward_model()
    model.response_attention(mixed_rollouts())
    assert model.model.config._attn_implementation == "sdpa"


def prefix_values(model: RewardModel, rollouts: Rollouts) -> torch.Tensor:
    """Return ``B x (T + 1)`` scores of prefixes, each a variant of its own."""
    return model.score(Variants.prefixes(rollouts)).values.view(len(rollouts), -1)


def plain_prefix_values(model, rollouts, eos=None):
    found = []
    for row in range(len(rollouts)):
        prompt, response = real_ids(rollouts, row)
        texts = [response[:end] for end in range(rollouts.response_ids.shape[1] + 1)]
        texts = [text if eos is None or text[-1:] == [eos] else [*text, eos] for text in texts]
        with torch.no_grad():
            found.append([float(model(input_ids=torch.tensor([prompt + text])).logits) for text in texts])
    return torch.tensor(found)


def lines_of_ours(caplog):
    return [each.getMessage() for each in caplog.records if each.name.startswith("shaping")]


@pytest.mark.parametrize("family", SHARING)
def test_a_model_that_shares_work_says_nothing(family, caplog):
    model = CausalRewardModel(tiny_family(family))
    prefix_values(model, mixed_rollouts())
    assert model.shares_work
    assert lines_of_ours(caplog) == []


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("family", NOT_SHARING)
def test_attention_that_the_tree_cannot_serve_falls_back_to_right_values_and_one_warning(family, eos, caplog):
    classifier, rollouts = tiny_family(family), mixed_rollouts()
    before = classifier.config._attn_implementation
    model = CausalRewardModel(classifier, name="judge", eos_token_id=eos, max_tokens_per_forward=100)
    for _ in range(2):
        expected = plain_prefix_values(classifier, rollouts, eos)
        torch.testing.assert_close(prefix_values(model, rollouts), expected, atol=1e-4, rtol=0)
    assert not model.shares_work
    (line,) = lines_of_ours(caplog)
    reason = "softcap" if family == "Gemma2" else "another kind of attention"
    assert line.startswith("reward model judge (") and reason in line and "\n" not in line
    assert classifier.config._attn_implementation == before


def drop_arguments(classifier):
    """Make every attention layer keep the tree to itself, as a model's own code may."""
    for layer in classifier.model.layers:
        forward = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, tree=None, forward=forward, **given: forward(*args, **given)


def refuse_arguments(classifier):
    forward = classifier.model.forward

    def strict(input_ids=None, position_ids=None, attention_mask=None, use_cache=None, **of_the_head):
        if "tree" in of_the_head:
            raise TypeError("got an unexpected keyword argument 'tree'")
        return forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache)

    classifier.model.forward = strict


@pytest.mark.parametrize(
    ("change", "reason"),
    [(drop_arguments, "does not hand arguments down"), (refuse_arguments, "unexpected keyword argument")],
)
def test_a_model_that_keeps_the_tree_from_its_attention_falls_back(change, reason, caplog):
    classifier, rollouts = tiny_classifier(), mixed_rollouts()
    expected = plain_prefix_values(classifier, rollouts)
    change(classifier)
    model = CausalRewardModel(classifier, name="stubborn")
    torch.testing.assert_close(prefix_values(model, rollouts), expected, atol=1e-4, rtol=0)
    (line,) = lines_of_ours(caplog)
    assert "stubborn" in line and reason in line
    assert classifier.config._attn_implementation == "sdpa"


WINDOWS = {
    "Mistral": {"sliding_window": 8},
    # Its window stands in the mask alone: the attention is never told.
    "Qwen2Moe": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
}


@pytest.mark.parametrize("family", WINDOWS)
def test_rows_longer_than_a_sliding_window_fall_back_once_they_come(family, caplog):
    classifier = tiny_family(family, **WINDOWS[family])
    assert classifier.config.sliding_window == 8
    model, rollouts = CausalRewardModel(classifier, name="windowed"), mixed_rollouts()
    inside = make_rollouts([[BOS, 9], [BOS, 9, 10]], [[11, 12, 13, 14, 15, 16], [21]])
    torch.testing.assert_close(prefix_values(model, inside), plain_prefix_values(classifier, inside), atol=1e-4, rtol=0)
    assert model.shares_work and lines_of_ours(caplog) == []
    expected = plain_prefix_values(classifier, rollouts)
    for _ in range(2):
        torch.testing.assert_close(prefix_values(model, rollouts), expected, atol=1e-4, rtol=0)
    assert not model.shares_work
    (line,) = lines_of_ours(caplog)
    assert "windowed" in line and "window" in line
    assert classifier.config._attn_implementation == "sdpa"


def test_a_sliding_window_shorter_than_the_first_try_falls_back_at_once(caplog):
    classifier, rollouts = tiny_family("Mistral", sliding_window=3), mixed_rollouts()
    model = CausalRewardModel(classifier)
    expected = plain_prefix_values(classifier, rollouts)
    torch.testing.assert_close(prefix_values(model, rollouts), expected, atol=1e-4, rtol=0)
    assert not model.shares_work
    assert len(lines_of_ours(caplog)) == 1


HARMLESS_WINDOWS = [
    ("Mistral", {"sliding_window": 42}),
    ("Mistral", {"sliding_window": None}),
    # Given, but no layer has it.
    ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
]


@pytest.mark.parametrize(("family", "window"), HARMLESS_WINDOWS)
def test_a_window_that_hides_nothing_of_the_longest_row_stays_shared(family, window, caplog):
    rollouts = make_rollouts([[BOS, 9], [BOS, 9, 10]], [list(range(20, 60)), [21]])
    model = CausalRewardModel(tiny_family(family, **window))
    expected = plain_prefix_values(model.model, rollouts)
    torch.testing.assert_close(prefix_values(model, rollouts), expected, atol=1e-4, rtol=0)
    assert model.shares_work and lines_of_ours(caplog) == []


def test_read_at_end_of_sequence_prefixes_are_closed_by_it_and_given_up_as_an_ability():
    rollouts, classifier = mixed_rollouts(), tiny_classifier()
    model = CausalRewardModel(classifier, SCORE_MEAN, SCORE_DEVIATION, eos_token_id=EOS)
    assert model.abilities == {"attention", "gradient", "sharing", "absent_attention"}
    assert tiny_reward_model().abilities == model.abilities | {"prefix"}
    assert "sharing" not in CausalRewardModel(tiny_classifier(), share_prefixes=False).abilities
    expected = (plain_prefix_values(classifier, rollouts, EOS) - SCORE_MEAN) / SCORE_DEVIATION
    torch.testing.assert_close(prefix_values(model, rollouts), expected, atol=1e-4, rtol=0)
    credit = METHODS["prefix"].credit(scored_batch(model, rollouts))
    increments = (expected[:, 1:] - expected[:, :-1]) * rollouts.response_mask
    torch.testing.assert_close(credit.values, increments, atol=1e-4, rtol=0)
    assert credit.coalitions == int((rollouts.response_tokens + 1).sum())
    assert credit.forwarded_tokens > 0


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "64"])
def test_a_bound_that_is_no_whole_number_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"max_tokens_per_forward = .* is not a whole number of at least 1"):
        CausalRewardModel(tiny_classifier(), max_tokens_per_forward=wrong)
    assert CausalRewardModel(tiny_classifier()).passes.most_tokens == MAX_TOKENS_ON_CPU


def test_saved_reward_model_scores_the_same(tmp_path):
    model = tiny_classifier()
    model.config.score_mean, model.config.score_deviation = SCORE_MEAN, SCORE_DEVIATION
    model.save_pretrained(tmp_path / "judge")
    loaded, rollouts = CausalRewardModel.from_pretrained(tmp_path / "judge"), mixed_rollouts()
    torch.testing.assert_close(loaded.prefix_scores(rollouts), tiny_reward_model().prefix_scores(rollouts))
    assert loaded.name == "judge"
    assert loaded.identity() == tiny_reward_model().identity()


def test_identity_changes_with_weights_and_scale():
    identities = {
        tiny_reward_model().identity(),
        tiny_reward_model(seed=2).identity(),
        CausalRewardModel(tiny_classifier(), SCORE_MEAN, 1.0).identity(),
        CausalRewardModel(tiny_classifier(), 0.0, SCORE_DEVIATION).identity(),
    }
    assert len(identities) == 4


def test_model_without_scalar_head_is_refused():
    with pytest.raises(ConfigError, match="no scalar head"):
        CausalRewardModel(tiny_policy())


def test_model_with_several_labels_is_refused():
    with pytest.raises(ConfigError, match="reward model judge has no scalar head"):
        CausalRewardModel(tiny_family("Llama", num_labels=3), name="judge")
