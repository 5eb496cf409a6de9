"""The sentiment task beyond the quickstart: an encoder that reads both ways, a policy with tokens of its own."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.commands.train import TrainingRun, chosen_shape, train
from pipeline.config.load import find_config, load_config, parse_config
from pipeline.study.folder import StudyFolder
from pipeline.tasks import asset_cache as assets
from pipeline.tasks.asset_cache import cache_folder, read_manifest
from pipeline.tasks.models.calibration import own_samples
from pipeline.tasks.models.encoder import encoder_loss, train_encoder
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.sentiment import task as sentiment
from pipeline.tasks.sentiment import variants as review_tiers
from pipeline.tasks.sentiment.reviews import PROMPT_WORDS, fetch_reviews, read_reviews
from pipeline.tasks.sentiment.soft_labels import soft_labels
from pipeline.tasks.settings import Recipe, SentimentSettings
from pipeline.trainers.base import Task
from pipeline.trials.task_models import check_space_methods, open_task
from shaping.credit import METHODS
from shaping.errors import ConfigError
from shaping.reward_models import CausalRewardModel, EncoderRewardModel, RetokenizedRewardModel
from shaping.rollouts import Rollouts
from shaping.scoring import score_responses
from tests.support.models.own_models import END, chat_tokenizer, own_policy
from tests.support.models.tiny_models import BOS, EOS, tiny_tokenizer
from tests.support.studies import TINY_RECIPE, tiny_config

pytestmark = pytest.mark.slow

TEXTS = [" and warm, wise", " is not good at all; so dull and long.", " a", " of the film: a joy!"]
every_tier = pytest.mark.parametrize("tier", ["encoder", "foreign", "foreign_encoder"], indirect=True)
every_foreign_tier = pytest.mark.parametrize("tier", ["foreign", "foreign_encoder"], indirect=True)
CONFIGS = ("sentiment_smollm2", "sentiment_encoder", "sentiment_gpu", "sentiment_cluster")


def settings_of(**changes: str) -> SentimentSettings:
    return SentimentSettings.model_validate({"recipe": TINY_RECIPE, **changes})


def prepared(settings: SentimentSettings, cache: Path) -> tuple[SentimentSettings, Path]:
    return settings, sentiment.prepare(settings, cache)


@pytest.fixture(scope="module")
def encoder(tiny_assets: Path) -> tuple[SentimentSettings, Path]:
    return prepared(settings_of(reward_model="encoder"), cache_folder())


@pytest.fixture(scope="module")
def foreign_cache(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which a policy with tokens of its own, of random weights, is in the place of SmolLM2."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "downloads").symlink_to(cache_folder() / "downloads")
    (cache / "assets").mkdir()
    (cache / "assets" / tiny_assets.name).symlink_to(tiny_assets)

    def stand_in(_: Path) -> tuple[Any, Any]:
        tokenizer = copy.deepcopy(chat_tokenizer())
        tokenizer.eos_token = END
        return own_policy(), tokenizer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(review_tiers, "load_smollm2", stand_in)
        yield cache


@pytest.fixture(scope="module")
def foreign(foreign_cache: Path) -> tuple[SentimentSettings, Path]:
    return prepared(settings_of(policy="smollm2"), foreign_cache)


@pytest.fixture(scope="module")
def foreign_encoder(foreign_cache: Path) -> tuple[SentimentSettings, Path]:
    return prepared(settings_of(policy="smollm2", reward_model="encoder"), foreign_cache)


@pytest.fixture
def tier(request: pytest.FixtureRequest) -> tuple[SentimentSettings, Path]:
    """The fixture of the name that a test asks for."""
    found: tuple[SentimentSettings, Path] = request.getfixturevalue(request.param)
    return found


def rollouts_of(task: Task, texts: list[str] = TEXTS) -> Rollouts:
    """Return texts as responses to the first held-out prompts, every second one ended."""
    prompts = task.held_out_prompts.select(torch.arange(len(texts)))
    asked = [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    said = [task.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return Rollouts.of_ids(asked, [ids + [task.eos_token_id] * (row % 2) for row, ids in enumerate(said)])


def rows_of(rollouts: Rollouts) -> list[tuple[list[int], list[int]]]:
    parts = ((rollouts.prompt_ids, rollouts.prompt_mask), (rollouts.response_ids, rollouts.response_mask))
    prompts, responses = ([row[real].tolist() for row, real in zip(*part, strict=True)] for part in parts)
    return list(zip(prompts, responses, strict=True))


@torch.no_grad()
def plain_score(folder: Path, ids: list[int]) -> float:
    """Return the score of a row of the reward model's tokens by one forward pass of the saved classifier."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    raw = float(model(input_ids=torch.tensor([ids])).logits)
    return (raw - model.config.score_mean) / model.config.score_deviation


# Default settings: nothing of the quickstart's may change.


def test_the_quickstarts_settings_are_written_as_they_were_before_there_were_others() -> None:
    plain = SentimentSettings().model_dump(mode="json")
    assert plain == {"name": "sentiment", "recipe": Recipe().model_dump()}
    named = {"name": "sentiment", "policy": "tiny", "reward_model": "causal"}
    assert SentimentSettings.model_validate(named).model_dump(mode="json") == plain
    for changes in (
        {"policy": "smollm2"},
        {"reward_model": "encoder"},
        {"policy": "smollm2", "reward_model": "encoder"},
    ):
        config = tiny_config(task={"recipe": TINY_RECIPE, **changes})
        assert changes.items() <= config.model_dump(mode="json")["task"].items()
        assert parse_config(config.model_dump(mode="json"), "again") == config


def test_the_quickstarts_models_keep_their_place_in_the_cache(
    tiny_assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sentiment.prepare(settings_of(), cache_folder()) == tiny_assets
    assert sentiment.location(settings_of(), cache_folder()) == tiny_assets
    monkeypatch.setattr(assets, "version", lambda _: "1")
    # Found by the code before there was another tier.
    assert assets.asset_key("sentiment", sentiment.made_of(Recipe())) == "sentiment-cee6b2abbd3e5f30"


def test_each_tier_has_its_own_place_and_other_settings_of_it_another(monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = [settings_of(policy=p, reward_model=r) for p in ("tiny", "smollm2") for r in ("causal", "encoder")]
    keys = [assets.asset_key("sentiment", sentiment._all_made_of(settings)) for settings in tiers]
    assert len(set(keys)) == 4
    monkeypatch.setattr("pipeline.tasks.models.encoder.PASSES", 7)
    again = [assets.asset_key("sentiment", sentiment._all_made_of(settings)) for settings in tiers]
    assert [before == after for before, after in zip(keys, again, strict=True)] == [True, False, True, False]


@pytest.mark.parametrize(("kept", "given"), [("encoder", "causal"), ("causal", "encoder")])
def test_a_study_of_one_tier_is_not_gone_on_with_as_another(kept: str, given: str, tmp_path: Path) -> None:
    configs = {name: tiny_config(task={"recipe": TINY_RECIPE, "reward_model": name}) for name in (kept, given)}
    study = StudyFolder(tmp_path / "study")
    study.create(configs[kept])
    study.check(configs[kept])
    with pytest.raises(ConfigError, match=r"task\.policy|task\.reward_model"):
        study.check(configs[given])


def test_what_is_built_is_said_beforehand(encoder: tuple[SentimentSettings, Path], tmp_path: Path) -> None:
    assert sentiment.unbuilt(encoder[0], cache_folder()) == ""
    assert sentiment.location(encoder[0], cache_folder()) == encoder[1]
    first, then = (sentiment.unbuilt(settings, tmp_path) for settings in (settings_of(), encoder[0]))
    assert "encoder" not in first and "encoder" in then and "two reward models" in then
    # How long it takes is said by the machine that builds, and by no other.
    assert not re.search(r"\d+ (s|min)|minute", first + then)
    assert "SmolLM2" in sentiment.unbuilt(settings_of(policy="smollm2"), tmp_path)


# The encoder.


def test_loss_of_the_encoder_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    whole, cut, targets = torch.randn(6), torch.randn(6), torch.rand(6)
    fresh = torch.tensor([True, False, True, True, False, False])

    def entropy(score: float, target: float) -> float:
        return math.log1p(math.exp(-score)) * target + math.log1p(math.exp(score)) * (1 - target)

    ends = [entropy(*pair) for pair in zip(whole.tolist(), targets.tolist(), strict=True)]
    prefixes = [entropy(*pair) for pair in zip(cut.tolist(), targets.tolist(), strict=True)]
    pairs = [math.log1p(math.exp(worse - better)) for better in whole[fresh] for worse in whole[~fresh]]
    expected = 0.25 * sum(ends) / 6 + 0.25 * sum(pairs) / 9 + 0.5 * sum(prefixes) / 6
    assert float(encoder_loss(whole, cut, fresh, targets)) == pytest.approx(expected, rel=1e-5)


def test_an_encoder_trained_on_cut_rows_says_of_each_prefix_what_it_is_worth(tmp_path: Path) -> None:
    """Fresh is what holds one word, anywhere in ten: that half of what is to come may hold it, a prefix cannot know.

    After ``n`` words without it, (1 - n / 10) / (2 - n / 10) of the rows will turn out fresh.
    """
    chooser, word, words = random.Random(0), 50, 10
    rows, fresh = [], [number % 2 == 0 for number in range(600)]
    for label in fresh:
        said = [chooser.randrange(10, 40) for _ in range(words)]
        if label:
            said[chooser.randrange(words)] = word
        rows.append([BOS, *said, EOS])
    recipe = Recipe(hidden_size=16, intermediate_size=32, layers=2, heads=2, batch_size=16, reward_learning_rate=1e-2)
    model = train_encoder(recipe, tiny_tokenizer(), rows, fresh, [float(label) for label in fresh], tmp_path)
    judge = EncoderRewardModel(model, tiny_tokenizer())
    plain = [[chooser.randrange(10, 40) for _ in range(words)] for _ in range(60)]
    told = [[*row[:3], word, *row[4:]] for row in plain]
    found = {}
    for name, said in (("plain", plain), ("told", told)):
        rollouts = Rollouts.of_ids([[BOS]] * 60, [[*row, EOS] for row in said])
        found[name] = judge.prefix_scores(rollouts).sigmoid().mean(dim=0).tolist()
    for count in (2, 5, 8):
        assert found["plain"][count] == pytest.approx((1 - count / 10) / (2 - count / 10), abs=0.12)
    assert found["plain"][-1] < 0.15
    # From the word on it is certain, three words before the end as ten.
    assert min(found["told"][5:]) > 0.85 and found["told"][3] < 0.6


def test_the_encoder_scores_a_row_as_one_pass_over_its_text_does(encoder: tuple[SentimentSettings, Path]) -> None:
    settings, folder = encoder
    task = sentiment.load(settings, folder)
    assert isinstance(task.reward_model, EncoderRewardModel) and isinstance(task.gold_model, CausalRewardModel)
    assert task.critic_source is None
    rollouts = rollouts_of(task)
    along = task.reward_model.prefix_scores(rollouts)
    for row, (prompt, response) in enumerate(rows_of(rollouts)):
        assert prompt[0] == task.tokenizer.bos_token_id
        for count in range(len(response) + 1):
            expected = plain_score(folder / "reward_model", prompt + response[:count])
            assert float(along[row, count]) == pytest.approx(expected, abs=1e-4)
    assert score_responses(task.reward_model, rollouts).tolist() == pytest.approx(along[:, -1].tolist(), abs=1e-4)
    assert float(along.std()) > 1e-3


@torch.no_grad()
def test_the_encoder_reads_both_ways_and_the_causal_model_does_not(encoder: tuple[SentimentSettings, Path]) -> None:
    task = sentiment.load(*encoder)
    rows = torch.tensor([[1, 20, 30, 40], [1, 20, 30, 41]])
    judges: Any = (task.reward_model, task.gold_model)
    both, one = (judge.model.base_model(input_ids=rows).last_hidden_state[:, :3] for judge in judges)
    assert float((both[0] - both[1]).abs().max(dim=-1).values.min()) > 1e-6
    torch.testing.assert_close(one[0], one[1])


def test_all_but_the_reward_model_is_the_quickstarts(
    encoder: tuple[SentimentSettings, Path], tiny_assets: Path
) -> None:
    ours, theirs = read_manifest(encoder[1]), read_manifest(tiny_assets)
    same = [name for name in theirs["files"] if not name.startswith("reward_model/")]
    assert {"policy/model.safetensors", "gold_model/model.safetensors", "prompts.json"} <= set(same)
    assert all(ours["files"][name] == theirs["files"][name] for name in same)
    assert {name.split("/")[0] for name in ours["files"]} == {"policy", "reward_model", "gold_model", "prompts.json"}
    assert ours["files"]["reward_model/model.safetensors"] != theirs["files"]["reward_model/model.safetensors"]


def test_the_encoder_learns_from_the_training_films_alone(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def noted(texts: list[str], fresh: list[bool], share: float) -> list[float]:
        seen.append((texts, fresh, soft_labels(texts, fresh, share)))
        return seen[-1][2]

    def stopped(recipe: Any, tokenizer: Any, rows: list[list[int]], *labels: Any) -> Any:
        assert labels[:2] == (seen[0][1], seen[0][2]) and len(rows) == len(seen[0][0])
        raise KeyboardInterrupt

    monkeypatch.setattr(review_tiers, "soft_labels", noted)
    monkeypatch.setattr(review_tiers, "train_encoder", stopped)
    reviews = sentiment._limited(read_reviews(fetch_reviews(cache_folder())), Recipe(**TINY_RECIPE))
    with pytest.raises(KeyboardInterrupt):
        review_tiers.build_tier(settings_of(reward_model="encoder"), tiny_assets, reviews, cache_folder(), tmp_path)
    assert seen[0][0] == [review.text for review in reviews if review.part == "train"]


@every_tier
def test_facts_say_how_good_reward_models_are_and_how_calibrated_their_prefixes(
    tier: tuple[SentimentSettings, Path],
) -> None:
    settings, folder = tier
    task, facts = sentiment.load(settings, folder), read_manifest(folder)["facts"]
    assert task.quality == facts and all(math.isfinite(value) for value in facts.values())
    judged = ["reward_model"] if settings.policy == "tiny" else ["reward_model", "gold_model"]
    for name in judged:
        measured = {"accuracy", "pair_accuracy", "closed_correlation_8", "final_correlation_8"}
        assert {f"{name}_{measure}" for measure in measured} <= set(facts)
    if settings.policy == "tiny":
        assert {"policy_loss_nats", "gold_model_accuracy", "gold_model_prefix_correlation_10"} <= set(facts)


@every_tier
def test_the_untrained_policys_scores_are_0_on_average_and_1_apart(tier: tuple[SentimentSettings, Path]) -> None:
    task = sentiment.load(*tier)
    prompts = task.train_prompts.select(torch.arange(128) * (len(task.train_prompts) // 128))
    samples = own_samples(task.policy, prompts.to_ids(), review_tiers.MEASURED_TOKENS, task.eos_token_id, False, 1)
    judges: Any = [task.reward_model] if tier[0].policy == "tiny" else [task.reward_model, task.gold_model]
    for judge in judges:
        scores = score_responses(judge, samples)
        assert abs(float(scores.mean())) < 0.4 and 0.7 < float(scores.std()) < 1.4


# A policy with tokens of its own.


@every_foreign_tier
def test_such_a_policy_continues_the_first_words_of_the_same_films(tier: tuple[SentimentSettings, Path]) -> None:
    settings, folder = tier
    task = sentiment.load(settings, folder)
    reviews = sentiment._limited(read_reviews(fetch_reviews(cache_folder())), settings.recipe)
    for part, prompts in (("train", task.train_prompts), ("test", task.held_out_prompts)):
        expected = [" ".join(review.text.split(" ")[:PROMPT_WORDS]) for review in reviews if review.part == part]
        ids = [row[mask].tolist() for row, mask in zip(prompts.ids, prompts.mask, strict=True)]
        assert task.tokenizer.batch_decode(ids) == expected
    assert task.eos_token_id == task.tokenizer.convert_tokens_to_ids(END)


@every_foreign_tier
def test_its_responses_are_scored_as_their_text_is(tier: tuple[SentimentSettings, Path]) -> None:
    settings, folder = tier
    task = sentiment.load(settings, folder)
    rollouts = rollouts_of(task)
    for name, judge in (("reward_model", task.reward_model), ("gold_model", task.gold_model)):
        assert isinstance(judge, RetokenizedRewardModel)
        own, expected = AutoTokenizer.from_pretrained(folder / name), []
        for row, (prompt, response) in enumerate(rows_of(rollouts)):
            texts = [task.tokenizer.decode(prompt), task.tokenizer.decode(response, skip_special_tokens=True)]
            first, then = (own(text, add_special_tokens=False)["input_ids"] for text in texts)
            expected.append(plain_score(folder / name, [1, *first, *then, *[own.eos_token_id] * (row % 2)]))
        assert score_responses(judge, rollouts).tolist() == pytest.approx(expected, abs=1e-4)
    inner: Any = task.reward_model
    assert isinstance(inner.inner, EncoderRewardModel if settings.reward_model == "encoder" else CausalRewardModel)


@every_foreign_tier
def test_its_gold_model_has_the_quickstarts_weights(tier: tuple[SentimentSettings, Path], tiny_assets: Path) -> None:
    ours, theirs = read_manifest(tier[1])["files"], read_manifest(tiny_assets)["files"]
    assert ours["gold_model/model.safetensors"] == theirs["gold_model/model.safetensors"]
    alike = ours["reward_model/model.safetensors"] == theirs["reward_model/model.safetensors"]
    assert alike == (tier[0].reward_model == "causal")


@every_tier
@pytest.mark.parametrize("weights", [("sparse=1",), ("prefix=0.5", "attention=0.3", "shapley=0.2")])
def test_a_policy_is_trained_and_judged(
    tier: tuple[SentimentSettings, Path], weights: tuple[str, ...], tmp_path: Path
) -> None:
    settings, folder = tier
    every_method = {"name": "credit_mix", "methods": list(METHODS)[1:]}
    config = tiny_config(
        task=settings.model_dump(), sampling={"response_tokens": 8}, space=every_method, search={"trials": 20}
    )
    task = open_task(config, folder, Console(quiet=True))
    check_space_methods(config, task)
    shape = chosen_shape(config, None, weights, task.reward_model)
    found = train(TrainingRun(config, shape, 0, tmp_path), task, Console(quiet=True)).evaluation
    assert found.gold_reward is not None and math.isfinite(found.objective)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["curve"]) == 2 and result["certificate"]["return_preserving"]
    assert result["certificate"]["responses"] == 8


@every_tier
def test_the_judge_alone_scores_as_the_task_does(tier: tuple[SentimentSettings, Path]) -> None:
    settings, folder = tier
    task, row = sentiment.load(settings, folder), PromptRow("a row", None, "a quiet film about")
    judge = sentiment.load_judge(settings, folder, [row])
    assert judge.reward_identity == task.reward_identity
    assert judge.tokenizer.decode(judge.prompt_ids[0], skip_special_tokens=True).strip() == row.text
    assert (judge.prompt_ids[0][0] == 1) == (settings.policy == "tiny")
    rollouts = rollouts_of(task)
    torch.testing.assert_close(
        score_responses(judge.reward_model, rollouts), score_responses(task.reward_model, rollouts)
    )
    with pytest.raises(ConfigError, match="a row holds messages"):
        sentiment.load_judge(settings, folder, [row.as_chat()])


# Configs.


@pytest.mark.parametrize("name", CONFIGS)
def test_its_configs_load(name: str) -> None:
    config = load_config(find_config(name))
    assert config.task.name == ("prompts" if name.endswith("cluster") else "sentiment")


def test_the_clusters_config_has_the_published_settings() -> None:
    config: Any = load_config(find_config("sentiment_cluster"))
    ppo = config.ppo
    assert (ppo.batch_size, ppo.num_ppo_epochs, ppo.steps, ppo.learning_rate) == (16, 4, 150, 1.41e-5)
    assert config.sampling.response_tokens == 16 and not config.sampling.stop_at_eos
    assert config.task.policy.model == "lvwerra/gpt2-imdb"
