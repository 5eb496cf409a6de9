"""Instruction following: answers that fulfil constraints which a program checks, a reward without a gradient.

Two tiers: SmolLM2-135M-Instruct answers questions whose constraints its prompt states; the film-review policy of the
sentiment task, which cannot read instructions, learns rules that are the same for every review.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.tasks.asset_cache import asset_folder, build_once, is_complete, read_manifest
from pipeline.tasks.instruction.constraints import REVIEW_RULES, Constraint
from pipeline.tasks.instruction.gold import AnswerJudge
from pipeline.tasks.instruction.questions import Question, draw_questions
from pipeline.tasks.instruction.verifier import REWARD_VERSION, AskedConstraints, VerifiableRewardModel
from pipeline.tasks.models.calibration import correlation, own_samples, score_scale
from pipeline.tasks.models.pretrained import SAFE
from pipeline.tasks.models.smollm2 import SMOLLM2, load_smollm2
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.sentiment import task as sentiment
from pipeline.tasks.settings import InstructionSettings, SentimentSettings
from pipeline.trainers.base import Judge, Prompts, Task, quiet_transformers
from shaping.alignment import DecodedRollouts, texts_of
from shaping.rollouts import Rollouts, unpadded

# What the untrained policy is measured on: training prompts give the score's scale, held-out ones the facts.
MEASURED_PROMPTS = 96
MEASURED_TOKENS = 40
MEASURED_BATCH = 32
PREFIXES = (6, 10, 14, 18, 24)
# Raised by hand when what is measured changes.
MEASURE_VERSION = 1
Rows = list[dict[str, Any]]


def location(settings: InstructionSettings, cache: Path) -> Path:
    """Return where policy, prompts and facts stand, whether they are built or not."""
    return asset_folder(cache, "instruction", made_of(settings))


def unbuilt(settings: InstructionSettings, cache: Path) -> str:
    """Return what has to be built, in words; empty where the cache has it."""
    if is_complete(location(settings, cache)):
        return ""
    if settings.policy == "smollm2":
        return "fetching SmolLM2-135M-Instruct and measuring its answers, once"
    before = sentiment.unbuilt(_reviews(settings), cache)
    return before or "measuring the policy of film reviews, once"


def prepare(settings: InstructionSettings, cache: Path) -> Path:
    """Return the folder of policy, prompts and facts, building it when it is not in the cache."""
    VerifiableRewardModel(AskedConstraints({}, None), None)  # refuses early where the checkers are not installed
    return build_once(cache, "instruction", made_of(settings), lambda folder: _build(settings, cache, folder))


def made_of(settings: InstructionSettings) -> dict[str, Any]:
    """Return everything that decides what is built, as plain values: the key of the cache."""
    given = settings.model_dump(mode="json")
    measured = [MEASURED_PROMPTS, MEASURED_TOKENS, list(PREFIXES), REWARD_VERSION, MEASURE_VERSION]
    if settings.policy == "smollm2":
        drawn = [question.prompt for part in _drawn(settings).values() for question in part]
        digest = hashlib.sha256("\n".join(drawn).encode()).hexdigest()
        return {**given, "recipe": None, "model": SMOLLM2.member_sha256, "prompts": digest, "measured": measured}
    rules = [rule.to_dict() for rule in REVIEW_RULES]
    return {**given, "recipe": sentiment.made_of(settings.recipe), "rules": rules, "measured": measured}


def load(settings: InstructionSettings, folder: Path | None) -> Task:
    """Return the task from the folder that ``prepare`` returned."""
    assert folder is not None
    quiet_transformers()
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32, **SAFE).eval()
    tokenizer, prompts, facts = _tokenizer(folder), _read_prompts(folder), read_manifest(folder)["facts"]
    asked, questions = _asked(tokenizer, prompts), _questions(tokenizer, prompts)
    return Task(
        name="instruction",
        policy=policy,
        tokenizer=tokenizer,
        reward_model=VerifiableRewardModel(asked, tokenizer, facts["score_mean"], facts["score_deviation"]),
        gold_model=AnswerJudge(policy, tokenizer, asked, questions),
        train_prompts=_prompts(prompts["train"]),
        held_out_prompts=_prompts(prompts["test"]),
        quality=facts,
    )


def load_judge(settings: InstructionSettings, folder: Path | None, asked: Sequence[PromptRow]) -> Judge:
    """Return the reward model alone, with the ids of ``asked``.

    A plain text is what a chat's user says, or the first words of a review. A chat must be one of the task's prompts:
    of others nobody knows the constraints, and their score says so.

    Raises:
        ConfigError: A prompt is a chat, where the policy writes reviews.
    """
    assert folder is not None
    quiet_transformers()
    tokenizer, prompts, facts = _tokenizer(folder), _read_prompts(folder), read_manifest(folder)["facts"]
    scale = facts["score_mean"], facts["score_deviation"]
    model = VerifiableRewardModel(_asked(tokenizer, prompts), tokenizer, *scale)
    if settings.policy == "smollm2":
        return Judge(tokenizer, model, tuple(row.as_chat().ids(tokenizer) for row in asked))
    for row in asked:
        row.check_plain()
    texts = [tokenizer(row.text, add_special_tokens=False)["input_ids"] for row in asked]
    return Judge(tokenizer, model, tuple([int(tokenizer.bos_token_id), *ids] for ids in texts))


def _build(settings: InstructionSettings, cache: Path, folder: Path) -> dict[str, Any]:
    quiet_transformers()
    if settings.policy == "smollm2":
        policy, tokenizer = load_smollm2(cache)
        policy.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        prompts = {part: [_row(question, tokenizer) for question in drawn] for part, drawn in _drawn(settings).items()}
    else:
        source = sentiment.prepare(_reviews(settings), cache)
        shutil.copytree(source / "policy", folder / "policy")
        policy, tokenizer = (
            AutoModelForCausalLM.from_pretrained(folder / "policy", **SAFE),
            _tokenizer(folder),
        )
        found = json.loads((source / "prompts.json").read_text())
        rules = [rule.to_dict() for rule in REVIEW_RULES]
        prompts = {part: [{"ids": ids, "question": ids, "constraints": rules} for ids in found[part]] for part in found}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return _facts(settings, policy.eval(), tokenizer, prompts)


def _drawn(settings: InstructionSettings) -> dict[str, list[Question]]:
    return {
        "train": draw_questions(settings.questions, held_out=False, seed=settings.seed),
        "test": draw_questions(settings.held_out_questions, held_out=True, seed=settings.seed),
    }


def _row(question: Question, tokenizer: Any) -> dict[str, Any]:
    """Return a prompt as it is kept: its ids, those of its question alone, and its constraints."""

    def chat(text: str) -> list[int]:
        return PromptRow("a question", [{"role": "user", "content": text}], text).ids(tokenizer)

    constraints = [constraint.to_dict() for constraint in question.constraints]
    return {
        "text": question.prompt,
        "ids": chat(question.prompt),
        "question": chat(question.text),
        "constraints": constraints,
    }


def _facts(settings: InstructionSettings, policy: Any, tokenizer: Any, prompts: dict[str, Rows]) -> dict[str, Any]:
    """Return the score's scale, what the untrained policy reaches, and how its prefix scores relate to the final one.

    A text that ends is the same text: the score of a prefix closed by end-of-sequence is the prefix's own.
    """
    asked, questions = _asked(tokenizer, prompts), _questions(tokenizer, prompts)
    reward_model = VerifiableRewardModel(asked, tokenizer)
    mean, deviation = score_scale(reward_model, _sampled(settings, policy, tokenizer, prompts["train"]))
    held_out = _sampled(settings, policy, tokenizer, prompts["test"])
    judge, texts = AnswerJudge(policy, tokenizer, asked, questions), DecodedRollouts.of(held_out, tokenizer)
    sampled = unpadded(held_out.response_ids, held_out.response_mask)
    prefixes = reward_model.prefix_scores(held_out)
    return {
        "score_mean": mean,
        "score_deviation": deviation,
        "untrained_score": float(prefixes[:, -1].mean()),
        "untrained_strict": _share(judge.strict(texts.prompts, texts.responses)),
        "untrained_own_question": _share(judge.own_question(texts.prompts, sampled)),
        "untrained_tokens": float(held_out.response_tokens.float().mean()),
        **prefix_quality(prefixes, held_out.response_tokens),
    }


def prefix_quality(prefixes: Tensor, tokens: Tensor) -> dict[str, float]:
    """Return ``reward_model_prefix_correlation_N``, of the score after ``N`` tokens with the final one.

    Args:
        prefixes: ``B x (T + 1)`` prefix scores.
        tokens: Real tokens of each response, ``B``; the correlation is over responses longer than ``N``, and left out
            where fewer than three are or all scores are one.
    """
    found = {}
    for count in PREFIXES:
        longer = tokens > count
        if int(longer.sum()) < 3:
            continue
        both = torch.stack([prefixes[longer, count], prefixes[longer, -1]])
        if bool((both.std(dim=1) > 0).all()):
            found[f"reward_model_prefix_correlation_{count}"] = correlation(*both)
    return found


def _sampled(settings: InstructionSettings, policy: Any, tokenizer: Any, rows: Rows) -> Rollouts:
    """Return the untrained policy's responses to the first prompts."""
    chosen = [row["ids"] for row in rows[:MEASURED_PROMPTS]]
    end, chat = int(tokenizer.eos_token_id), settings.policy == "smollm2"
    return own_samples(
        policy, chosen, MEASURED_TOKENS, end, chat, settings.seed, settings.measured_temperature, MEASURED_BATCH
    )


def _reviews(settings: InstructionSettings) -> SentimentSettings:
    return SentimentSettings(recipe=settings.recipe)


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False)


def _read_prompts(folder: Path) -> dict[str, Rows]:
    prompts: dict[str, Rows] = json.loads((folder / "prompts.json").read_text())
    return prompts


def _texts(tokenizer: Any, prompts: dict[str, Rows]) -> list[tuple[str, dict[str, Any]]]:
    """Return every prompt with the text of its tokens, as a reward model is given it."""
    rows = [row for part in sorted(prompts) for row in prompts[part]]
    return list(zip(texts_of(tokenizer, [row["ids"] for row in rows]), rows, strict=True))


def _asked(tokenizer: Any, prompts: dict[str, Rows]) -> AskedConstraints:
    """Return what the prompts ask for; what all ask alike is also asked by any other prompt."""
    known = {
        text: tuple(Constraint(**constraint) for constraint in row["constraints"])
        for text, row in _texts(tokenizer, prompts)
    }
    kinds = {tuple(constraint.key for constraint in asked) for asked in known.values()}
    return AskedConstraints(known, next(iter(known.values())) if len(kinds) == 1 else None)


def _questions(tokenizer: Any, prompts: dict[str, Rows]) -> dict[str, list[int]]:
    return {text: row["question"] for text, row in _texts(tokenizer, prompts)}


def _prompts(rows: Rows) -> Prompts:
    return Prompts.of_ids([row["ids"] for row in rows])


def _share(found: list[bool]) -> float:
    return sum(found) / len(found)
