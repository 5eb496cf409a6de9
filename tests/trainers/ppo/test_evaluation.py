"""What is said of a policy on held-out prompts, during a run and at its end."""

import math

import pytest
import torch

from pipeline.trainers.ppo.evaluation import distinct_ngrams, evaluate
from pipeline.trainers.ppo.run import InnerRun
from pipeline.trainers.ppo.settings import EvaluationSettings
from shaping.errors import TrialFailed
from shaping.shape import Shape
from tests.support.models.tiny_models import EOS, make_rollouts, plain_score, tiny_classifier
from tests.support.models.tiny_task import ending_policy, tiny_task, tiny_trainer

ENDS = {"stop_at_eos": True, "missing_eos_penalty": 0.5, "response_tokens": 8, "temperature": 1.5}


def moved_trainer(**options):
    """Return a trainer whose policy is no longer the reference, with a random share of credit."""
    task = tiny_task(policy=ending_policy())
    trainer = tiny_trainer(Shape(weights={"random": 1.0}), task, sampling=ENDS, learning_rate=3e-2, **options)
    list(trainer.steps())
    return trainer


def log_probs_of(policy, prompt, response, temperature):
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / temperature
    distribution = logits.log_softmax(dim=-1)
    entropy = -(distribution.exp() * distribution).sum(dim=-1)
    return distribution.gather(1, torch.tensor(response)[:, None]).squeeze(1), entropy


def test_means_equal_those_of_one_response_at_a_time_from_plain_models():
    trainer = moved_trainer()
    found = evaluate(trainer, 6, kept_texts=6)
    rewards, golds, kls, entropies, lengths = [], [], [], [], []
    for text in found.texts:
        ids = (text.prompt_ids, text.response_ids)
        own, entropy = log_probs_of(trainer.actor.policy, *ids, ENDS["temperature"])
        reference, _ = log_probs_of(ending_policy(), *ids, ENDS["temperature"])
        penalty = 0.5 if EOS not in text.response_ids else 0.0
        rewards.append(plain_score(tiny_classifier(1), [*ids[0], *ids[1]]) - penalty)
        golds.append(plain_score(tiny_classifier(5), [*ids[0], *ids[1]]))
        assert text.score == pytest.approx(rewards[-1], abs=1e-4)
        kls.append(float((own - reference).sum()))
        entropies += entropy.tolist()
        lengths.append(len(text.response_ids))
    assert len(set(lengths)) > 2 and {EOS in text.response_ids for text in found.texts} == {True, False}
    assert found.reward == pytest.approx(sum(rewards) / 6, abs=1e-4)
    assert found.gold_reward == pytest.approx(sum(golds) / 6, abs=1e-4)
    assert found.kl_nats == pytest.approx(sum(kls) / 6, abs=1e-3) and abs(found.kl_nats) > 0.01
    assert found.objective == pytest.approx(found.reward - 0.05 * found.kl_nats)
    assert found.entropy_nats == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
    assert found.response_tokens == pytest.approx(sum(lengths) / 6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_distinct_runs_are_counted_within_responses(size):
    responses = [[5, 6, 5, 6, 5], [6, 5], [7], [], [5, 6, 5, 9]]
    runs = [tuple(row[i : i + size]) for row in responses for i in range(len(row) - size + 1)]
    found = distinct_ngrams(make_rollouts([[1]] * 5, responses), size)
    assert found == len(set(runs)) / len(runs) < 1


def test_responses_without_a_pair_have_no_distinct_ones():
    assert distinct_ngrams(make_rollouts([[1]], [[5]]), 2) == 0.0
    assert distinct_ngrams(make_rollouts([[1]], [[5]], width=4), 3) == 0.0


def test_task_without_a_gold_model_has_no_gold_reward():
    assert evaluate(tiny_trainer(task=tiny_task(gold_model=None)), 4).gold_reward is None


def run_in(folder, trainer, every_steps=2, identity="one", judges_untrained=False):
    settings = EvaluationSettings(prompts=8, every_steps=every_steps, curve_prompts=4, kept_texts=1)
    return InnerRun(trainer, settings, folder / "saved.safetensors", identity, judges_untrained)


def test_policy_is_judged_before_training_and_every_few_steps(tmp_path):
    run = run_in(tmp_path, tiny_trainer(steps=5))
    list(run.steps())
    assert [point["done_steps"] for point in run.held_out] == [0, 2, 4]
    assert run.held_out[0]["kl_nats"] == pytest.approx(0, abs=1e-5)
    assert run.held_out[2]["kl_nats"] > 1e-3
    expected = evaluate(tiny_trainer(), 4)
    assert run.held_out[0]["objective"] == expected.objective and "texts" not in run.held_out[0]
    assert len(run.curve) == 5 and len(run.result().texts) == 1


def test_judging_on_the_way_does_not_change_what_is_learned(tmp_path):
    judged, plain = (run_in(tmp_path, tiny_trainer(save_steps=0), every) for every in (1, 0))
    for run in (judged, plain):
        list(run.steps())
    assert plain.held_out == [] and len(judged.held_out) == 4
    assert judged.result() == plain.result() and judged.curve == plain.curve


def test_untrained_policy_is_judged_as_the_trained_one_and_changes_nothing(tmp_path):
    judged, plain = (run_in(tmp_path, tiny_trainer(save_steps=0), 0, "one", asked) for asked in (True, False))
    expected = evaluate(judged.trainer, 8).to_dict()
    del expected["texts"]
    for run in (judged, plain):
        list(run.steps())
    assert judged.untrained == expected and plain.untrained is None
    assert judged.untrained["kl_nats"] == pytest.approx(0, abs=1e-5)
    assert judged.result() == plain.result() and judged.curve == plain.curve


def test_run_that_goes_on_keeps_what_the_untrained_policy_was(tmp_path):
    first = run_in(tmp_path, tiny_trainer(steps=5, save_steps=1), 0, "one", True)
    next(first.steps())
    second = run_in(tmp_path, tiny_trainer(steps=5, save_steps=1), 0, "one", True)
    assert len(second.curve) == 1
    list(second.steps())
    assert second.untrained == first.untrained is not None


def test_run_that_stops_goes_on_with_its_curves(tmp_path):
    whole = run_in(tmp_path / "none", tiny_trainer(steps=5, save_steps=0))
    list(whole.steps())
    first = run_in(tmp_path, tiny_trainer(steps=5, save_steps=3))
    for _ in range(4):
        next(steps := first.steps()) if not first.curve else next(steps)
    second = run_in(tmp_path, tiny_trainer(steps=5, save_steps=3))
    assert len(second.curve) == 3 and [point["done_steps"] for point in second.held_out] == [0, 2]
    list(second.steps())
    assert second.curve == whole.curve and second.held_out == whole.held_out and second.result() == whole.result()
    assert run_in(tmp_path, tiny_trainer(steps=5), identity="other").curve == []


def test_objective_that_is_not_finite_ends_the_trial_by_name(tmp_path):
    trainer = tiny_trainer()
    run = run_in(tmp_path, trainer)
    with torch.no_grad():
        trainer.actor.policy.lm_head.weight[7] = math.nan
    with pytest.raises(TrialFailed) as failure:
        run.result()
    assert failure.value.reason == "nan"
