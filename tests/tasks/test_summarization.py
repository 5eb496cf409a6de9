"""Summaries of papers: no paper is in two parts, worse is worse, and the gold measure is ROUGE."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rouge_score import rouge_scorer

from pipeline.commands.train import TrainingRun, chosen_shape, train
from pipeline.config.load import parse_config
from pipeline.config.schema import StudyConfig
from pipeline.tasks.asset_cache import cache_folder, read_manifest
from pipeline.tasks.models.calibration import prefix_calibration
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.settings import SummarizationSettings
from pipeline.tasks.summarization import papers as corpus
from pipeline.tasks.summarization import policy as summary_policy
from pipeline.tasks.summarization import task as summarization
from pipeline.tasks.summarization.examples import (
    REPEATED_TOKENS,
    Example,
    comparisons,
    copied_examples,
    human_examples,
    repeating_rows,
    windows,
)
from pipeline.tasks.summarization.gold import rouge_1, rouge_l
from pipeline.tasks.summarization.reward_model import comparison_loss
from pipeline.tasks.summarization.task import load, load_judge, location, prepare, unbuilt
from pipeline.trainers.base import Task
from shaping import Rollouts
from shaping.errors import ConfigError
from shaping.rollouts import padded
from shaping.scoring import score_responses

pytestmark = pytest.mark.slow

RECIPE = {
    "vocabulary": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "layers": 2,
    "heads": 2,
    "repeating_rows": 64,
    "summary_epochs": 1,
    "reward_epochs": 1,
    "max_papers": 30,
}


@pytest.fixture(scope="module")
def settings() -> SummarizationSettings:
    return SummarizationSettings.model_validate({"name": "summarization", "recipe": RECIPE})


@pytest.fixture(scope="module")
def folder(settings: SummarizationSettings) -> Path:
    return prepare(settings, cache_folder())


@pytest.fixture(scope="module")
def task(settings: SummarizationSettings, folder: Path) -> Task:
    return load(settings, folder)


@pytest.fixture(scope="module")
def papers() -> list[corpus.Paper]:
    return corpus.read_papers(corpus.fetch_papers(cache_folder()))


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text] + [0]


def test_papers_are_split_without_overlap_and_in_the_planned_shares(papers: list[corpus.Paper]) -> None:
    assert len({paper.name for paper in papers}) == len(papers) == 250
    parts = [paper.part for paper in papers]
    assert abs(parts.count("test") / len(parts) - corpus.TEST_SHARE) < 0.05
    assert abs(parts.count("reward") / len(parts) - corpus.REWARD_SHARE) < 0.05
    assert {paper.part for paper in papers} == {"policy", "reward", "test"}


def test_every_aspect_has_a_summary_and_sentences_that_stand_in_the_paper(papers: list[corpus.Paper]) -> None:
    for paper in papers:
        for aspect in corpus.ASPECTS:
            assert 9 <= len(paper.summaries[aspect].split()) <= 25
            assert paper.highlighted[aspect] and set(paper.highlighted[aspect]) <= set(paper.sentences)


def test_sentences_lose_their_citations_and_the_spaces_of_their_tokens() -> None:
    text = "It is hard ( Yang et al . , 2016 ; Li , 2017b ) , so we do n't ( yet ) use the parser 's output ."
    assert corpus.plain_sentence(text) == "It is hard, so we don't (yet) use the parser's output."


def test_rouge_is_that_of_the_package() -> None:
    chooser, words = random.Random(0), ["the", "Cat", "sat,", "on", "mat-work", "9%", "déjà", "BLEU"]
    judge = rouge_scorer.RougeScorer(["rouge1", "rougeL"])
    assert rouge_l("", "") == rouge_1("a", "") == 0.0
    for _ in range(200):
        reference, summary = (" ".join(chooser.choices(words, k=chooser.randrange(9))) for _ in range(2))
        expected = judge.score(reference, summary)
        assert rouge_1(reference, summary) == pytest.approx(expected["rouge1"].fmeasure)
        assert rouge_l(reference, summary) == pytest.approx(expected["rougeL"].fmeasure)


def test_windows_hold_whole_sentences_in_order_and_keep_their_length() -> None:
    sentences = ["a b c", "d e", "f g h i j k l", "m", "n o p q"]
    assert windows(sentences, 5) == ["a b c d e", "m n o p q"]
    assert windows(sentences, 4) == ["a b c", "d e m", "n o p q"]
    assert windows(sentences, 100) == ["a b c d e f g h i j k l m n o p q"]


def test_a_worse_summary_is_another_papers_the_own_one_shuffled_or_cut() -> None:
    examples = [
        Example(f"p{number}", aspect, "source", f"{number}{aspect} has some words to shuffle around here")
        for number in range(4)
        for aspect in corpus.ASPECTS
    ]
    chosen = comparisons(examples, lambda example: letters(example.paper), letters, seed=3)
    assert len(chosen) == len(examples)
    for example, each in zip(examples, chosen, strict=True):
        other, shuffled, truncated = each.worse
        assert each.prompt == letters(example.paper) and each.better == letters(example.summary)
        owners = [known.paper for known in examples if letters(known.summary) == other]
        assert len(owners) == 1 and owners != [example.paper]
        assert shuffled != each.better and sorted(shuffled) == sorted(each.better)
        cut = len(truncated) - 1
        assert 2 <= cut < len(each.better) - 1 and truncated == [*each.better[:cut], 0]
    assert chosen != comparisons(examples, lambda example: letters(example.paper), letters, seed=4)


def test_copied_sentences_stand_in_their_sources(papers: list[corpus.Paper]) -> None:
    found = copied_examples(papers[:5], 40, 1, seed=0)
    assert len(found) > 50
    assert all(each.summary in each.source and len(each.source.split()) <= 40 for each in found)


def test_repeating_rows_say_the_same_words_twice() -> None:
    for row in repeating_rows([[5, 6, 7], [8, 9]], 20, seed=1):
        assert row[:REPEATED_TOKENS] == row[-REPEATED_TOKENS:] and set(row) <= {5, 6, 7, 8, 9}
        assert 1 <= len(row) - 2 * REPEATED_TOKENS < REPEATED_TOKENS // 2


def test_loss_of_comparisons_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    scores, prompts = torch.randn(8, 9), [2, 2, 2, 2, 3, 3, 3, 3]
    lengths = [7, 6, 7, 4, 9, 8, 9, 5]
    pairs, entropies, weights = [], 0.0, 0.0
    for first in (0, 4):
        last = [float(scores[first + row, lengths[first + row] - 1]) for row in range(4)]
        pairs += [math.log1p(math.exp(worse - last[0])) for worse in last[1:]]
        for row in range(4):
            # The last one is truncated: its prefixes are the better one's.
            start = lengths[first + row] - 1 if row == 3 else prompts[first + row] - 1
            for place in range(start, lengths[first + row]):
                signed = float(scores[first + row, place]) * (1 if row == 0 else -1)
                weight = 2.0 if row == 0 else 1.0
                entropies += weight * math.log1p(math.exp(-signed))
                weights += weight
    expected = 0.5 * sum(pairs) / len(pairs) + 0.5 * entropies / weights
    assert float(comparison_loss(scores, torch.tensor(prompts), torch.tensor(lengths))) == pytest.approx(expected)


def test_prompts_of_the_training_are_of_papers_that_the_reward_model_and_the_gold_measure_never_saw(
    task: Task, folder: Path, papers: list[corpus.Paper]
) -> None:
    used = papers[: RECIPE["max_papers"]]
    prompts = json.loads((folder / "prompts.json").read_text())
    examples = {part: human_examples([p for p in used if p.part == part], 40) for part in ("policy", "reward", "test")}
    sources = {part: {each.source for each in found} for part, found in examples.items()}
    texts = {part: task.tokenizer.batch_decode(prompts[part], skip_special_tokens=True) for part in ("train", "test")}
    assert len(texts["train"]) == len(examples["policy"])
    for part, own in (("train", "policy"), ("test", "test")):
        for text in texts[part]:
            matching = {name for name, known in sources.items() if any(source.lower() in text for source in known)}
            assert matching == {own}
    assert prompts["references"] == [
        each.summary for each in human_examples([p for p in used if p.part == "test"], 40, 1)
    ]


def test_models_learn_from_their_own_papers_alone(
    settings: SummarizationSettings, papers: list[corpus.Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = papers[: RECIPE["max_papers"]]
    (tmp_path / "downloads").symlink_to(cache_folder() / "downloads")
    compared: list[set[str]] = []
    summarized: list[set[str]] = []

    def seen_comparisons(examples: list[Example], *rest: Any) -> Any:
        compared.append({each.paper for each in examples})
        return comparisons(examples, *rest)

    def seen_papers(given: list[corpus.Paper], *rest: Any) -> Any:
        summarized.append({paper.name for paper in given})
        return human_examples(given, *rest)

    monkeypatch.setattr(summarization, "comparisons", seen_comparisons)
    monkeypatch.setattr(summary_policy, "human_examples", seen_papers)
    prepare(settings, tmp_path)
    names = {part: {paper.name for paper in used if paper.part == part} for part in ("policy", "reward", "test")}
    assert compared == [names["reward"], names["reward"], names["test"]]
    assert summarized == [names["policy"]]


def test_gold_is_rouge_against_the_own_reference(task: Task, folder: Path, settings: SummarizationSettings) -> None:
    prompts = json.loads((folder / "prompts.json").read_text())
    said = prompts["references"][1]
    response = task.tokenizer(said, add_special_tokens=False)["input_ids"] + [task.eos_token_id]
    rows = Rollouts(*padded(prompts["test"][:3], left=True), *padded([response] * 3, left=False))
    expected = [rouge_l(reference, said) for reference in prompts["references"][:3]]
    assert expected[1] == 1.0 and max(expected[0], expected[2]) < 0.7
    assert task.gold_model is not None
    torch.testing.assert_close(score_responses(task.gold_model, rows), torch.tensor(expected))
    changed = load(settings.model_copy(update={"gold": "rouge_1"}), folder).gold_model
    assert changed is not None
    words = torch.tensor([rouge_1(reference, said) for reference in prompts["references"][:3]])
    torch.testing.assert_close(score_responses(changed, rows), words)
    unknown = Rollouts(*padded([[5, 6, 7]], left=True), *padded([response], left=False))
    with pytest.raises(ConfigError, match="no human summary"):
        score_responses(task.gold_model, unknown)


def test_prefix_calibration_correlates_scores_of_prefixes_as_computed_one_by_one(task: Task) -> None:
    generator = torch.Generator().manual_seed(0)
    eos, model = task.eos_token_id, task.reward_model
    prompts = [torch.randint(4, 300, (size,), generator=generator).tolist() for size in (5, 3, 7, 4)]
    responses = [[*torch.randint(4, 300, (size,), generator=generator).tolist(), eos] for size in (9, 6, 12, 3)]
    found = prefix_calibration(model, prompts, responses, eos)  # type: ignore[arg-type]

    def score(prompt: list[int], response: list[int]) -> float:
        return float(
            model.prefix_scores(Rollouts(*padded([prompt], left=True), *padded([response], left=False)))[0, -1]
        )

    rows = list(zip(prompts, responses, strict=True))[:3]
    early = [score(prompt, response[:4]) for prompt, response in rows]
    closed = [score(prompt, [*response[:4], eos]) for prompt, response in rows]
    final = [score(prompt, response) for prompt, response in rows]
    expected = torch.corrcoef(torch.tensor([early, closed, final]))
    assert found["closed_correlation_4"] == pytest.approx(float(expected[0, 1]), abs=1e-3)
    assert found["final_correlation_4"] == pytest.approx(float(expected[0, 2]), abs=1e-3)
    assert set(found) == {"closed_correlation_4", "final_correlation_4"}


def test_the_manifest_says_how_good_models_are_and_how_calibrated_prefixes(task: Task, folder: Path) -> None:
    facts = read_manifest(folder)["facts"]
    assert task.quality == facts
    kinds = {f"reward_model_accuracy_{kind}" for kind in ("other", "shuffled", "truncated")}
    assert kinds | {"reward_model_closed_correlation_8", "reward_model_final_correlation_8"} <= set(facts)
    assert all(math.isfinite(value) for value in facts.values())
    assert 0 < facts["rouge_l_another_summary"] < facts["rouge_l_source"] < 1


def test_a_judge_reads_prompts_as_the_task_makes_them(
    task: Task, folder: Path, settings: SummarizationSettings
) -> None:
    ids = task.held_out_prompts.ids[0][task.held_out_prompts.mask[0]].tolist()
    text = task.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert load_judge(settings, folder, [PromptRow("asked", None, text)]).prompt_ids == (ids,)
    with pytest.raises(ConfigError, match="messages"):
        load_judge(settings, folder, [PromptRow("asked", [{"role": "user", "content": "x"}], "x")])


def test_what_is_built_is_not_built_again(settings: SummarizationSettings, folder: Path, tmp_path: Path) -> None:
    assert unbuilt(settings, cache_folder()) == "" and location(settings, cache_folder()) == folder
    assert "policy and reward model" in unbuilt(settings, tmp_path)


@pytest.mark.parametrize("weights", [("sparse=1",), ("prefix=0.8", "shapley=0.2")])
def test_a_policy_is_trained_and_judged_by_rouge(weights: tuple[str, ...], task: Task, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "name": "tiny",
        "task": {"name": "summarization", "recipe": RECIPE},
        "sampling": {"response_tokens": 8, "stop_at_eos": True, "missing_eos_penalty": 1.0},
        "ppo": {"steps": 2, "batch_size": 4},
        "evaluation": {"prompts": 6, "kept_texts": 1},
    }
    config: StudyConfig = parse_config(values, "tiny")
    shape = chosen_shape(config, None, weights, task.reward_model)
    found = train(TrainingRun(config, shape, 0, tmp_path), task, Console(quiet=True)).evaluation
    assert found.gold_reward is not None and 0 <= found.gold_reward <= 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["curve"]) == 2 and result["certificate"]["responses"] == 8
