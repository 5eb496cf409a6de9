from itertools import pairwise

import pytest
import torch

from shaping import METHODS, CausalRewardModel, ConfigError
from tests.tiny_models import (
    BOS,
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


def test_score_rows_ignores_what_stands_behind_a_row():
    model, classifier = tiny_reward_model(), tiny_classifier()
    ids = torch.tensor([[BOS, 20, 21, 22], [BOS, 20, 99, 98]])
    scores = model.score_rows(ids, torch.tensor([4, 2]))
    assert scores.tolist() == pytest.approx(
        [plain_score(classifier, [BOS, 20, 21, 22]), plain_score(classifier, [BOS, 20])], abs=1e-5
    )


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
