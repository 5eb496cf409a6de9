"""Constraints, their score, and the task: hand-counted texts, IFEval's own evaluation and plain forward passes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.ifbench import prompts as ifbench
from pipeline.config.load import find_config, load_config, parse_config
from pipeline.tasks.asset_cache import cache_folder
from pipeline.tasks.instruction import task as instruction
from pipeline.tasks.instruction import verifier as verifiable
from pipeline.tasks.instruction.constraints import DRAWS, REVIEW_RULES, Constraint, draw_constraints
from pipeline.tasks.instruction.gold import AnswerJudge
from pipeline.tasks.instruction.questions import SUBJECTS, draw_questions, is_held_out
from pipeline.tasks.instruction.verifier import AskedConstraints, Checks, VerifiableRewardModel, substance
from pipeline.tasks.prompt_file import PromptRow
from pipeline.trainers.base import Task
from pipeline.trials.task_models import check_space_methods
from shaping.credit import METHODS
from shaping.errors import ConfigError
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses
from shaping.shape import Shape
from shaping.shaper import Shaper
from tests.support.studies import TINY_RECIPE

CONFIGS = ("instruction", "instruction_smollm2", "instruction_gpu", "instruction_cluster")
NO_COMMA = Constraint("punctuation:no_comma")
WATER = Constraint("keywords:existence", {"keywords": ["water"]})
LOWER = Constraint("change_case:english_lowercase")
SENTENCE = "we all need clean water every day"


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Path]:
    values = {"task": {"name": "instruction", "policy": "reviews", "recipe": TINY_RECIPE}}
    chosen: Any = parse_config({"name": "x", **values}, "test").task
    return chosen, instruction.prepare(chosen, cache_folder())


def test_where_it_stands_is_known_beforehand(tiny: tuple[Any, Path]) -> None:
    assert instruction.location(tiny[0], cache_folder()) == tiny[1]


@pytest.fixture(scope="module")
def task(tiny: tuple[Any, Path]) -> Task:
    return instruction.load(*tiny)


def rollouts_of(task: Task, responses: list[str]) -> Rollouts:
    """Return responses to the first held-out prompts."""
    prompts = task.held_out_prompts.select(torch.arange(len(responses)))
    asked = [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    return Rollouts.of_ids(asked, [task.tokenizer(text, add_special_tokens=False)["input_ids"] for text in responses])


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("", 0.0),
        ("... !", 0.0),
        ("water", 0.0),
        ("Water water WATER water", 0.0),
        ("clean water", 0.2),
        ("we need clean water", 0.6),
        ("we all need clean water today", 1.0),
        ("a b c d e f " * 2, 1.0),
        ("a b c d e f " * 4, 0.5),
        ("a b a b a b a b", 0.2 * 0.5),
    ],
)
def test_substance_is_what_was_counted_by_hand(response: str, expected: float) -> None:
    assert substance(response) == pytest.approx(expected)


@given(st.text(alphabet="ab ,.?\n", max_size=40))
def test_no_text_of_one_word_earns_anything(text: str) -> None:
    words = set("".join(mark if mark in "ab" else " " for mark in text).split())
    found = substance(text)
    assert 0 <= found <= 1
    assert (found == 0) == (len(words) < 2)


def test_score_is_the_share_of_constraints_fulfilled() -> None:
    checks, both = Checks(), (NO_COMMA, WATER)
    assert checks.score(both, SENTENCE) == 1.0
    assert checks.score(both, SENTENCE.replace("need", "need,")) == 0.5
    assert checks.score(both, SENTENCE.replace("water", "food")) == 0.5
    assert checks.score(both, "we all, I guess, need clean food") == 0.0
    assert checks.score((NO_COMMA,), "") == checks.score((NO_COMMA,), "  ") == 0.0


def test_every_drawn_constraint_is_checked_as_ifeval_checks_it() -> None:
    from if_verifiable.common import evaluate_instructions
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    checks = Checks()
    texts = [
        SENTENCE,
        "Well, the *world* is old and the house is small.",
        "often",
        "",
        "Yes\n\nand the time of the day",
        " ".join([SENTENCE] * 4),
    ]
    verdicts: dict[str, set[bool]] = {}
    for number in range(300):
        (constraint,) = draw_constraints(random.Random(number), 1)
        for text in texts:
            arguments = ([constraint.kind], [constraint.arguments], "", INSTRUCTION_DICT)
            expected = evaluate_instructions(text, *arguments)[1].binary_strict == 1.0
            assert checks.fulfilled([constraint], text) == [expected]
            verdicts.setdefault(constraint.words[:12], set()).add(expected)
    assert len(verdicts) >= len(DRAWS) and all(seen == {True, False} for seen in verdicts.values())


@settings(deadline=None)
@given(st.text(max_size=30), st.integers(0, 10_000))
def test_no_text_makes_a_checker_fail(text: str, seed: int) -> None:
    assert 0 <= Checks().score(draw_constraints(random.Random(seed), 3), text) <= 1


def test_the_same_text_has_the_same_score_again() -> None:
    # The language of so short a text is a guess; unseeded guesses differ from call to call.
    texts = ["film nice cast plot", "a good film", "the soup of", "old water cast"] * 5
    found = [Checks().fulfilled([LOWER], text)[0] for text in texts]
    assert found == found[:4] * 5


def test_subjects_are_on_one_side_only_and_words_name_the_arguments() -> None:
    train, held_out = draw_questions(400, False, 0), draw_questions(100, True, 0)
    assert not {question.subject for question in train} & {question.subject for question in held_out}
    assert all(is_held_out(question.subject) for question in held_out)
    assert len({question.prompt for question in train}) == 400
    assert 0.1 < sum(map(is_held_out, SUBJECTS)) / len(SUBJECTS) < 0.35 and len(set(SUBJECTS)) == len(SUBJECTS)
    for question in train:
        kinds = [constraint.kind for constraint in question.constraints]
        assert len(kinds) == len(set(kinds))
        for constraint in question.constraints:
            assert constraint.words in question.prompt
            for name in ("num_words", "first_word", "keyword"):
                assert str(constraint.arguments.get(name, "")) in constraint.words
    assert draw_questions(20, False, 0) == train[:20] and draw_questions(20, False, 1) != train[:20]


def test_other_prompts_are_another_asset(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Any = parse_config({"name": "x", "task": {"name": "instruction"}}, "test").task
    before = instruction.made_of(chosen)
    assert instruction.made_of(chosen) == before
    monkeypatch.setattr(
        "pipeline.tasks.instruction.constraints.OPENINGS", ("well", "yes", "today", "sometimes", "maybe", "now")
    )
    assert instruction.made_of(chosen) != before


def test_a_prompt_that_nobody_knows_is_refused_by_name() -> None:
    asked = AskedConstraints({" Known one \n": (NO_COMMA,)}, None)
    assert asked.of("Known one") == (NO_COMMA,)
    with pytest.raises(ConfigError, match=r"which constraints the prompt 'Another' holds"):
        asked.of("Another")
    assert AskedConstraints({}, (WATER,)).of("Another") == (WATER,)


def test_missing_checkers_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    verifiable._registry.cache_clear()
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(ConfigError, match=r"langdetect.*\n?.*shapetune\[instruction\]"):
        Checks()
    verifiable._registry.cache_clear()


def test_scores_of_the_task_are_scaled_and_follow_the_rules(task: Task) -> None:
    model: Any = task.reward_model
    assert isinstance(model, VerifiableRewardModel)
    texts = ["the film is good and warm and wise", "the film, good and warm and wise", "but not good at all , so dull"]
    found = score_responses(model, rollouts_of(task, texts))
    raw = [Checks().score(REVIEW_RULES, text) for text in texts]
    assert raw == [1.0, 0.75, 0.0]
    assert found.tolist() == pytest.approx([(score - model.mean) / model.deviation for score in raw], abs=1e-5)
    other = VerifiableRewardModel(AskedConstraints({}, (WATER,)), task.tokenizer, model.mean, model.deviation)
    assert other.identity() != model.identity()


def test_shapley_and_prefix_credit_find_the_words_that_the_rules_name(task: Task) -> None:
    rollouts = rollouts_of(task, ["warm film and wise and old soul", "one long dull day but nobody was late"])
    tokens = [task.tokenizer.convert_ids_to_tokens(row.tolist()) for row in rollouts.response_ids]
    base = Shape(weights={"sparse": 1.0}, balance=1.0, unit="token", max_units=8, closure="spread")
    for method in ("prefix", "shapley", "owen", "uniform"):
        shaper = Shaper(base.with_changes(weights={method: 1.0}), task.reward_model, task.tokenizer, 0)
        shaped = shaper.shaped(rollouts)
        torch.testing.assert_close(shaped.token_rewards.sum(dim=1), shaped.scores, atol=1e-5, rtol=1e-5)
    reward = Shaper(base.with_changes(weights={"prefix": 1.0}), task.reward_model, task.tokenizer, 0).shaped(rollouts)
    but = next(place for place, token in enumerate(tokens[1]) if token.endswith("but"))
    assert int(reward.token_rewards[1].argmin()) == but


def test_methods_that_need_weights_are_refused(task: Task) -> None:
    values = {"task": {"name": "instruction"}, "space": {"name": "credit_mix", "methods": ["attention"]}}
    with pytest.raises(ConfigError, match=r"space.methods, attention: .*no attention"):
        check_space_methods(parse_config({"name": "x", **values}, "test"), task)
    served = {
        "space": {"name": "credit_mix", "methods": ["prefix", "shapley", "owen", "kernel_shap", "lime", "uniform"]}
    }
    assert set(served["space"]["methods"]) <= set(METHODS)
    check_space_methods(parse_config({"name": "x", "task": {"name": "instruction"}, **served}, "test"), task)


def test_gold_wants_all_constraints_and_its_own_question(task: Task) -> None:
    gold: Any = task.gold_model
    assert isinstance(gold, AnswerJudge)
    texts = ["the film is good and warm and wise", "the film, good and warm and wise", "a film and a cast and a plot"]
    rollouts = rollouts_of(task, texts)
    prompts = task.tokenizer.batch_decode(rollouts.prompt_ids, skip_special_tokens=True)
    assert gold.strict(prompts, texts) == [True, False, True]
    sampled = [ids[mask].tolist() for ids, mask in zip(rollouts.response_ids, rollouts.response_mask, strict=True)]
    own = gold.own_question(prompts, sampled)
    assert own == _own_by_plain_passes(task, rollouts)
    assert score_responses(gold, rollouts).tolist() == [float(own[0]), 0.0, float(own[2])]


def test_gold_reads_the_tokens_that_were_sampled(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = rollouts_of(task, ["the film is good and warm and wise"]).response_ids.tolist()
    letters = task.tokenizer.convert_tokens_to_ids(["Ġ", *"the"])
    rollouts = rollouts_of(task, ["film"])
    rollouts = Rollouts.of_ids(rollouts.prompt_ids.tolist(), [[*letters, *whole[1:]]])
    seen: list[Any] = []
    monkeypatch.setattr(task.gold_model, "own_question", lambda _, ids: seen.append(ids) or [True])
    monkeypatch.setattr(task.gold_model, "strict", lambda prompts, _: [True] * len(prompts))
    assert score_responses(task.gold_model, rollouts).tolist() == [1.0]
    assert seen == [rollouts.response_ids.tolist()]


@torch.no_grad()
def _own_by_plain_passes(task: Task, rollouts: Rollouts) -> list[bool]:
    """Return the same by one forward pass of the model for each question and response."""
    gold: Any = task.gold_model
    prompts, found = gold._questions, []
    for row in range(len(rollouts)):
        own = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
        response = rollouts.response_ids[row][rollouts.response_mask[row]].tolist()
        texts = task.tokenizer.batch_decode(prompts, skip_special_tokens=True)
        # Prompts of one text stand at the place of the last one.
        place = max(number for number, text in enumerate(texts) if text == task.tokenizer.decode(own[1:]))
        asked = [prompts[(place + step) % len(prompts)] for step in (0, *(len(prompts) * k // 4 for k in (1, 2, 3)))]
        likely = []
        for question in asked:
            logits = task.policy(input_ids=torch.tensor([question + response])).logits[0]
            log_probs = logits.log_softmax(dim=-1)[len(question) - 1 : -1]
            likely.append(float(log_probs.gather(1, torch.tensor(response)[:, None]).sum()))
        found.append(likely[0] > max(likely[1:]))
    return found


def test_facts_hold_scale_strictness_and_the_calibration_of_prefixes(task: Task, tiny: tuple[Any, Path]) -> None:
    prefixes = torch.tensor([[0.0] * 6 + [float(row), float(row)] for row in range(4)])
    quality = instruction.prefix_quality(prefixes, torch.tensor([7, 7, 7, 3]))
    assert quality == {"reward_model_prefix_correlation_6": pytest.approx(1.0)}
    assert 0 <= task.quality["untrained_strict"] <= 1 and task.quality["score_deviation"] > 0
    assert any(name.startswith("reward_model_prefix_correlation") for name in task.quality)
    kept = json.loads((tiny[1] / "prompts.json").read_text())
    assert len(kept["train"]) == len(task.train_prompts) and len(kept["test"]) == len(task.held_out_prompts)


def test_the_judge_alone_scores_as_the_task_does(task: Task, tiny: tuple[Any, Path]) -> None:
    row = PromptRow("a row", None, "a quiet film")
    judge = instruction.load_judge(*tiny, [row])
    assert judge.prompt_ids[0][0] == judge.tokenizer.bos_token_id
    assert judge.reward_identity == task.reward_identity
    with pytest.raises(ConfigError, match="a row holds messages"):
        instruction.load_judge(*tiny, [row.as_chat()])


@pytest.mark.parametrize("name", CONFIGS)
def test_its_configs_load(name: str) -> None:
    config = load_config(find_config(name))
    assert config.name == name
    assert config.task.name == ("prompts" if name.endswith("cluster") else "instruction")
    assert name.endswith("cluster") or "attention" not in config.space.methods


def rates_of(prompts: list[ifbench.BenchPrompt], texts: list[str]) -> dict[str, float]:
    return {measure: fmean(found) for measure, found in ifbench.passed(prompts, texts).items()}


def test_ifbench_is_read_and_what_needs_more_data_is_left_out() -> None:
    prompts = ifbench.read_ifbench(cache_folder())
    assert len(prompts) == 265
    # None of the checkers asks for data that is not there, or breaks.
    text = "Well then. The house by 12 rivers is quiet; a story, told well.\n\n* One\n* Two"
    rates = rates_of(prompts, [text] * len(prompts))
    assert 0 < rates["substantial"] == rates["strict"] <= rates["loose"] < 0.5
    # Saying nothing passes a third of the checks: that is why substance is asked for.
    rates = rates_of(prompts, ["word"] * len(prompts))
    assert rates["strict"] > 0.3 and rates["substantial"] == 0
    keywords = next(prompt for prompt in prompts if prompt.kinds == ("count:keywords_multiple",))
    words = [(keywords.arguments[0][f"keyword{number}"], times) for number, times in enumerate((1, 2, 3, 5, 7), 1)]
    answer = " ".join(" ".join([word] * times) for word, times in words)
    found = ifbench.passed([keywords, keywords], [f"{answer} and so we all say", "none"])
    assert found["strict"] == found["loose"] == [True, False]
