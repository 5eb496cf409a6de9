"""What `explain` says of a text, held against Hugging Face's own forward passes and a slow loop."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.cli import _run
from pipeline.config.load import load_config
from pipeline.explain.explain import explain, moved
from pipeline.explain.question import ExplainRequest
from pipeline.explain.samples import TokenRow, TokenSample
from pipeline.explain.token_rewards import explain_response, make_shapers, token_rewards
from pipeline.tasks.registry import load_task
from pipeline.tasks.sentiment.task import load_sentiment
from pipeline.trainers.base import Judge, SampleText
from pipeline.trials.task_models import open_judge
from shaping.credit import METHODS
from shaping.errors import ConfigError
from shaping.reward_models import TextRewardModel
from shaping.shape import Shape
from shaping.shaper import Shaper
from tests.support.explanations import WINNER, exported_shape, finished_study, kept_text
from tests.support.models.own_models import (
    CHAT,
    END,
    chat_tokenizer,
    other_tokenizer,
    own_policy,
    own_values,
    text_rows,
    write_config,
    write_lines,
    write_models,
)
from tests.support.models.tiny_families import byte_tokenizer, unigram_tokenizer
from tests.support.models.tiny_models import make_rollouts
from tests.support.studies import tiny_values

PROMPT, RESPONSE = "the film", " is moving, but its end is dull."
QUIET = Console(quiet=True)


@torch.no_grad()
def plain_scores(folder: Path, rows: list[list[int]]) -> list[float]:
    """Return Hugging Face's score of each row, scaled as the folder's config says."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    mean, deviation = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_deviation", 1.0)
    return [(float(model(input_ids=torch.tensor([row])).logits) - mean) / deviation for row in rows]


@pytest.fixture
def config(tmp_path: Path, tiny_assets: Path) -> Path:
    """The config of the tiny film reviews, as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values()))
    return path


@pytest.fixture
def study(tmp_path: Path, tiny_assets: Path) -> Path:
    """A finished study that kept two responses."""
    identity = load_sentiment(tiny_assets).reward_identity
    texts = [kept_text(tiny_assets, 0, [20, 21, 22, 23]), kept_text(tiny_assets, 1, [30, 31, 32])]
    return finished_study(tmp_path / "studied", texts, identity).root


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    write_lines(folder / "prompts.jsonl", text_rows())
    write_lines(
        folder / "chats.jsonl", [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in text_rows()]
    )
    return folder


def row_of(sample: TokenSample, name: str) -> TokenRow:
    return next(row for row in sample.rows if row.method == name)


def asked(subject: Any, **options: Any) -> ExplainRequest:
    return ExplainRequest(str(subject), **{"prompt": PROMPT, "response": RESPONSE, **options})


def test_prefix_rewards_are_differences_of_plain_scores_and_every_row_sums_to_the_plain_score(
    config: Path, tiny_assets: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_assets / "policy")
    prompt, response = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, RESPONSE))
    rows = [[tokenizer.bos_token_id, *prompt, *response[:count]] for count in range(len(response) + 1)]
    scores = plain_scores(tiny_assets / "reward_model", rows)
    found = explain(asked(config, methods=("all",)), QUIET)
    (sample,) = found.samples
    assert sample.score == pytest.approx(scores[-1], abs=1e-5)
    expected = [after - before for before, after in pairwise(scores)]
    # What the prompt alone scores stands on the last token, so that the sum is the score.
    expected[-1] += scores[0]
    assert row_of(sample, "prefix").rewards == pytest.approx(expected, abs=1e-5)
    assert [row.method for row in sample.rows] == list(found.shapes) == list(METHODS)
    for row in sample.rows:
        assert sum(row.rewards) == pytest.approx(scores[-1], abs=1e-4) and sample.keeps_sum(row)
        assert len(row.rewards) == len(response) == len(sample.tokens)
    assert row_of(sample, "sparse").rewards == pytest.approx([0.0] * (len(response) - 1) + [scores[-1]], abs=1e-5)
    assert "".join(sample.tokens) == RESPONSE and sample.prompt.strip() == PROMPT
    assert found.certificates["prefix"].is_causal and not found.certificates["shapley"].is_causal
    assert all(certificate.return_preserving for certificate in found.certificates.values())


def test_moved_reward_is_half_the_sum_of_differences(config: Path) -> None:
    (sample,) = explain(asked(config, methods=("sparse", "uniform", "prefix")), QUIET).samples
    one, other = row_of(sample, "prefix"), row_of(sample, "uniform")
    total = 0.0
    for place in range(len(sample.tokens)):
        total += abs(one.rewards[place] - other.rewards[place])
    assert total > 0 and moved(one, other) == moved(other, one) == pytest.approx(total / 2)
    # All that uniform has is elsewhere, but for the last token's part.
    share = 1 - 1 / len(sample.tokens)
    assert moved(row_of(sample, "sparse"), other) == pytest.approx(abs(sample.score) * share, abs=1e-5)
    assert moved(one, one) == 0.0


def test_a_study_shows_its_winner_and_what_it_is_made_of_on_its_own_responses(study: Path, tiny_assets: Path) -> None:
    found = explain(ExplainRequest(str(study)), QUIET)
    assert list(found.shapes) == ["winner of studied", "attention", "prefix"]
    assert found.shapes["winner of studied"] == WINNER and found.shapes["prefix"].unit == "token"
    assert [len(sample.tokens) for sample in found.samples] == [4, 3]
    assert {certificate.responses for certificate in found.certificates.values()} == {2}
    ids = [kept_text(tiny_assets, 0, [20, 21, 22, 23]), kept_text(tiny_assets, 1, [30, 31, 32])]
    rows = [text["prompt_ids"] + text["response_ids"] for text in ids]
    scores = plain_scores(tiny_assets / "reward_model", rows)
    assert [sample.score for sample in found.samples] == pytest.approx(scores, abs=1e-5)
    for sample in found.samples:
        mixed = [
            0.75 * prefix + 0.25 * attention
            for prefix, attention in zip(
                row_of(sample, "prefix").rewards, row_of(sample, "attention").rewards, strict=True
            )
        ]
        assert row_of(sample, "winner of studied").rewards == pytest.approx(mixed, abs=1e-5)


def test_two_shapes_stand_side_by_side_with_what_moved_between_them(study: Path, config: Path, tmp_path: Path) -> None:
    other = Shape(weights={"shapley": 0.5, "sparse": 0.5}, unit="token", gae_lambda=0.9)
    file = exported_shape(other, tmp_path)
    for subject in (study, study / "export" / "shape.json"):
        found = explain(asked(subject, shapes=(file,)), QUIET)
        assert (list(found.shapes.values()) == [WINNER, other] and list(found.shapes)[1] == "shape.json") or str(file)
        (sample,) = found.samples
        plain = found.to_dict()["texts"][0]
        assert list(plain["moved"].values()) == [pytest.approx(moved(*sample.rows))]
        assert plain["rewards"] == {row.method: list(row.rewards) for row in sample.rows}
    found = explain(asked(file, config=str(config), shapes=(study,), methods=("sparse",)), QUIET)
    assert list(found.shapes) == ["shape.json", "studied", "sparse"]
    assert found.shapes["studied"] == WINNER and found.shapes["shape.json"] == other


def test_the_report_and_explain_say_the_same_of_a_response(study: Path, tiny_assets: Path) -> None:
    task = load_sentiment(tiny_assets)
    ids = [kept_text(tiny_assets, 0, [20, 21, 22, 23]), kept_text(tiny_assets, 1, [30, 31, 32])]
    told = token_rewards(task, WINNER, [SampleText(**text) for text in ids])
    found = explain(ExplainRequest(str(study), methods=("all",)), QUIET)
    for sample, kept in zip(found.samples, told, strict=True):
        assert list(sample.tokens) == kept["tokens"] and sample.score == pytest.approx(kept["score"])
        for row in sample.rows:
            name = "winner" if row.method == "winner of studied" else row.method
            assert list(row.rewards) == pytest.approx(kept["rewards"][name])


def test_numbers_of_a_response_do_not_depend_on_those_before_it(study: Path, tmp_path: Path, config: Path) -> None:
    texts = [{"prompt": PROMPT, "response": RESPONSE}, {"prompt": "bad", "response": " acting, good music"}]
    both = write_lines(tmp_path / "both.jsonl", texts)
    alone = write_lines(tmp_path / "alone.jsonl", texts[1:])
    many, one = (explain(ExplainRequest(str(config), file=file, methods=("random",)), QUIET) for file in (both, alone))
    assert many.samples[1].rows == one.samples[0].rows and many.samples[0].rows != many.samples[1].rows


def test_chats_go_through_the_template_and_nothing_of_the_policys_weights_is_read(models: Path, tmp_path: Path) -> None:
    for name in ("policy", "reward", "other"):
        (tmp_path / name).symlink_to(models / name)
    (tmp_path / "policy").unlink()
    (tmp_path / "policy").mkdir()
    for file in (models / "policy").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "policy" / file.name).symlink_to(file)
    chats = str(models / "chats.jsonl")
    path = write_config(tmp_path, own_values(tmp_path, prompts=chats, reward_model={"model": str(models / "reward")}))
    (sample,) = explain(asked(path, prompt=CHAT[0]["content"], methods=("prefix",)), QUIET).samples
    tokenizer = chat_tokenizer()
    opening = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    response = tokenizer(RESPONSE, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(END)
    (expected,) = plain_scores(models / "reward", [opening + response + [end]])
    assert sample.score == pytest.approx(expected, abs=1e-5)
    assert "".join(sample.tokens) == RESPONSE + END and sample.tokens[-1] == END
    (sample,) = explain(asked(path, prompt=CHAT[0]["content"], methods=("prefix",), unfinished=True), QUIET).samples
    (expected,) = plain_scores(models / "reward", [opening + response])
    assert sample.score == pytest.approx(expected, abs=1e-5) and "".join(sample.tokens) == RESPONSE


def test_a_response_that_ends_by_itself_is_not_ended_twice(models: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path, own_values(models, prompts=str(models / "chats.jsonl")))
    one, other = (explain(asked(path, response=text), QUIET).samples[0] for text in (RESPONSE, RESPONSE + END))
    assert one.tokens == other.tokens and one.tokens.count(END) == 1


def test_where_a_response_ends_may_stand_in_the_generation_config_alone(models: Path, tmp_path: Path) -> None:
    policy, tokenizer = own_policy(), copy.deepcopy(byte_tokenizer(330))
    tokenizer.eos_token = None
    policy.generation_config.eos_token_id = 7
    policy.config.eos_token_id = None
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    path = write_config(tmp_path, own_values(models, policy={"model": str(tmp_path / "policy")}))
    found = explain(asked(path, methods=("sparse",)), QUIET).samples[0]
    assert found.tokens[-1] == tokenizer.convert_ids_to_tokens(7)
    assert load_task(load_config(path).task, "").eos_token_id == 7


def test_messages_are_refused_where_no_prompt_of_the_task_is_a_chat(models: Path, tmp_path: Path) -> None:
    path, lines = write_config(tmp_path, own_values(models)), tmp_path / "chat.jsonl"
    write_lines(lines, [{"messages": CHAT, "response": RESPONSE}])
    with pytest.raises(ConfigError, match=r"chat\.jsonl, line 1 holds messages"):
        explain(ExplainRequest(str(path), file=lines), QUIET)


def test_a_reward_model_of_another_tokenizer_reads_its_own_form_of_a_new_prompt(models: Path, tmp_path: Path) -> None:
    values = own_values(models, prompts=str(models / "chats.jsonl"), reward_model={"model": str(models / "other")})
    path, tokenizer = write_config(tmp_path, values), other_tokenizer()
    lines = write_lines(tmp_path / "texts.jsonl", [{"messages": CHAT, "response": RESPONSE}])
    by_option = asked(path, prompt=CHAT[0]["content"], methods=("prefix", "attention"))
    by_file = ExplainRequest(str(path), file=lines, methods=("prefix", "attention"))
    opening = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    row = opening + tokenizer(RESPONSE, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    (expected,) = plain_scores(models / "other", [row])
    for question in (by_option, by_file):
        (sample,) = explain(question, QUIET).samples
        assert sample.score == pytest.approx(expected, abs=1e-5)
        assert all(row.total == pytest.approx(expected, abs=1e-4) for row in sample.rows)


@pytest.mark.parametrize("reward", ["reward", "other"])
@pytest.mark.parametrize("prompts", ["prompts.jsonl", "chats.jsonl"])
def test_the_reward_model_alone_is_that_of_the_whole_task(
    reward: str, prompts: str, models: Path, tmp_path: Path
) -> None:
    values = own_values(models, prompts=str(models / prompts), reward_model={"model": str(models / reward)})
    settings = load_config(write_config(tmp_path, values))
    task, judge = load_task(settings.task, ""), open_judge(settings, [], QUIET)
    assert judge.reward_identity == task.reward_identity and judge.reward_model.abilities == task.reward_model.abilities
    assert judge.tokenizer.eos_token_id == task.tokenizer.eos_token_id
    prompt = task.held_out_prompts
    rollouts = make_rollouts([prompt.ids[0][prompt.mask[0]].tolist()], [[30, 31, 32, 33]])
    shape = Shape(weights={"prefix": 0.5, "shapley": 0.5})
    one, other = (Shaper(shape, each.reward_model, each.tokenizer)(rollouts) for each in (task, judge))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [lambda: byte_tokenizer(330), unigram_tokenizer], ids=["bytes", "spaces marked"])
def test_tokens_keep_their_spaces_and_bytes_of_one_character_stand_on_its_last_token(make: Any) -> None:
    tokenizer = make()
    prompt, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("so good", " the 日 was good"))
    judge = Judge(tokenizer, TextRewardModel(lambda texts: [len(text) for text in texts], tokenizer), ())
    shapers = make_shapers(judge, {"prefix": Shape(weights={"prefix": 1.0})})
    ended = [*ids, tokenizer.eos_token_id]
    sample, _ = explain_response(judge, shapers, prompt, ended)
    assert "".join(sample.tokens[:-1]) == tokenizer.decode(prompt + ids)[len("so good") :]
    assert sample.tokens[-1] == tokenizer.eos_token and len(sample.tokens) == len(ended)
    assert sample.tokens[0].startswith(" ") and sum(token.startswith(" ") for token in sample.tokens) >= 3
    # The reward model's own characters, as the policy's tokens bring them.
    assert sample.rows[0].rewards[1:-1] == tuple(len(token) for token in sample.tokens[1:-1])


def test_an_exported_shape_is_refused_with_another_reward_model(study: Path, config: Path, tmp_path: Path) -> None:
    file = exported_shape(WINNER, tmp_path, identity="another")
    for question in (asked(file, config=str(config)), asked(study, shapes=(file,))):
        with pytest.raises(ConfigError, match="is another reward model: the shape was tuned for judge"):
            explain(question, QUIET)


TEXT = ["--prompt", PROMPT, "--response", RESPONSE]
BAD: dict[str, tuple[list[str], list[str]]] = {
    "unknown study": (["{}/nothing", *TEXT], ["nothing is no study, no shape.json and no config", "quickstart"]),
    "folder without study": (["{}", *TEXT], ["no study in"]),
    "unknown method": (["{study}", *TEXT, "--method", "magic"], ["--method 'magic' is unknown", "shapley", "or all"]),
    "unknown shape": (["{study}", *TEXT, "--shape", "{}/none.json"], ["none.json cannot be read"]),
    "study without shape": (["{study}", *TEXT, "--shape", "{}/unshaped"], ["exported no shape", "shapetune export"]),
    "shape of nobody": (["{alone}", *TEXT], ["which reward model", "--config quickstart"]),
    "study for a study": (["{study}", *TEXT, "--config", "quickstart"], ["--config quickstart", "leave it out"]),
    "changed study": (["{study}", *TEXT, "--set", "ppo.steps=3"], ["--set ppo.steps=3 cannot change"]),
    "same shape twice": (
        ["{study}", *TEXT, "--shape", "{alone}", "--shape", "{alone}", "--shape", "{alone}"],
        ["once"],
    ),
    "no text": (["{config}"], ["no text to explain", "--file"]),
    "no response": (["{config}", "--prompt", "a"], ["--response is missing"]),
    "empty response": (["{config}", "--prompt", "a", "--response", ""], ["--response is empty"]),
    "no prompt": (["{config}", "--response", "a"], ["--prompt is missing"]),
    "text twice": (["{config}", *TEXT, "--file", "{}/lines.jsonl"], ["--file and a text were both given"]),
    "no file": (["{config}", "--file", "{}/none.jsonl"], ["--file: the file", "does not exist"]),
    "file without response": (["{config}", "--file", "{}/lines.jsonl"], ["lines.jsonl, line 2: response is empty"]),
    "messages of a text task": (["{config}", "--file", "{}/chat.jsonl"], ["line 1 holds messages", "plain texts"]),
    "too long": (["{config}", "--prompt", "a", "--response", "the film " * 300], ["the text", "context of 256"]),
    "no text at all": (["{config}", "--prompt", "a", "--response", "\udcff"], ["no character", "UTF-8"]),
    "two forms": (["{config}", *TEXT, "--json", "--html", "{}/p.html"], ["--json and --html"]),
    "page in a file": (["{config}", *TEXT, "--html", "{}/lines.jsonl/p.html"], ["page", "cannot be written"]),
    "no winner": (["{}/unshaped", *TEXT], ["has no winner yet", "--method"]),
    "nothing kept": (["{}/unshaped", "--method", "prefix"], ["has kept no responses", "--prompt"]),
    "own trainer": (["{}/trained.yaml", *TEXT], ["trainer of its own", "--config"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_exit_code_2_and_a_remedy(
    case: str, study: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = exported_shape(WINNER, tmp_path)
    tiny = finished_study(tmp_path / "unshaped", [])
    tiny.winner_file.unlink()
    (tiny.export / "shape.json").unlink()
    write_lines(tmp_path / "lines.jsonl", [{"prompt": "a", "response": "b"}, {"prompt": "a"}])
    write_lines(tmp_path / "chat.jsonl", [{"messages": CHAT, "response": "b"}])
    (tmp_path / "trained.yaml").write_text(yaml.safe_dump({"name": "own", "trainer": {"function": "own.py:train"}}))
    arguments, expected = BAD[case]
    places = {"{}": tmp_path, "{study}": study, "{alone}": alone, "{config}": config}
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    assert _run(["explain", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and len(shown.err.splitlines()) == 2 and shown.out == ""
    for words in expected:
        assert words in shown.err


def test_a_method_that_the_reward_model_cannot_serve_is_refused_by_name_and_left_out_of_all(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rewards.py").write_text("def score(prompts, responses):\n    return [len(r) for r in responses]\n")
    values = own_values(models, reward_model={"function": f"{tmp_path / 'rewards.py'}:score"})
    path = str(write_config(tmp_path, values))
    assert _run(["explain", path, *TEXT, "--method", "attention"]) == 2
    said = capsys.readouterr().err
    assert "--method attention: the reward model" in said and "gives no attention" in said
    assert "choose from sparse, uniform, random, prefix, shapley" in said
    found = explain(asked(path, methods=("all",)), QUIET)
    assert set(METHODS) - set(found.shapes) == {"attention", "gradient"}
    # The score of a function of lengths: every token brings its own characters.
    (sample,) = found.samples
    lengths = [len(token) for token in sample.tokens[:-1]]
    assert row_of(sample, "prefix").rewards == pytest.approx([*lengths, 0.0])
    shaped = exported_shape(WINNER, tmp_path)
    assert _run(["explain", str(shaped), "--config", path, *TEXT]) == 2
    assert "shape.json: weights.attention" in capsys.readouterr().err


def test_json_holds_everything_and_nothing_else_is_printed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["explain", str(study), "--method", "sparse", "--json"]) == 0
    shown = capsys.readouterr().out
    content = json.loads(shown)
    assert shown.isascii() and content["title"] == "studied" and content["reward_model"] == "reward_model"
    assert list(content["shapes"]) == list(content["certificates"]) == ["winner of studied", "sparse"]
    assert Shape.from_dict(content["shapes"]["winner of studied"]) == WINNER
    for text in content["texts"]:
        assert set(text["rewards"]) == {"winner of studied", "sparse"} and set(text["moved"]) == {"sparse"}
        assert sum(text["rewards"]["sparse"]) == pytest.approx(text["score"])
    assert content["certificates"]["sparse"]["return_preserving"] is True


def test_a_page_is_written_instead_where_it_is_asked_for(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = study.parent / "new" / "page.html"
    assert _run(["explain", str(study), "--html", str(page)]) == 0
    assert capsys.readouterr().out.replace("\n", "") == f"page    {page}"
    assert "winner of studied" in page.read_text(encoding="utf-8")
