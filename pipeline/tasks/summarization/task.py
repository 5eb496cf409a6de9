"""Scientific papers: say in a sentence what challenge, approach or outcome some of a paper's sentences tell of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pipeline.runtime.memory import keep_freed_memory
from pipeline.tasks.asset_cache import asset_folder, build_once, is_complete, read_manifest
from pipeline.tasks.models.calibration import own_samples, prefix_calibration, score_scale
from pipeline.tasks.models.pretrained import SAFE
from pipeline.tasks.models.smollm2 import SMOLLM2, load_smollm2
from pipeline.tasks.prompt_file import PromptRow
from pipeline.tasks.settings import SummarizationSettings, SummaryRecipe
from pipeline.tasks.summarization.examples import Example, comparisons, copied_examples, human_examples
from pipeline.tasks.summarization.gold import MEASURES, ReferenceRewardModel
from pipeline.tasks.summarization.papers import CORPUS, SHARES, Paper, fetch_papers, read_papers
from pipeline.tasks.summarization.policy import SummaryTokens, train_tiny
from pipeline.tasks.summarization.reward_model import comparison_quality, new_reward_model, train_on_comparisons
from pipeline.trainers.base import Judge, Prompts, Task, quiet_transformers
from shaping.alignment import texts_of
from shaping.reward_models import CausalRewardModel
from shaping.rollouts import unpadded

NORMALIZATION_PROMPTS = 128
NORMALIZATION_TOKENS = 40
# Windows of one paper's highlighted sentences that the reward model reads with the same summary.
REWARD_WINDOWS = 2
# Comparisons of the papers' own sentences that come first, of another seed than the policy's.
COPIED_SEED = 1


def location(settings: SummarizationSettings, cache: Path) -> Path:
    """Return where the task's models stand, whether they are built or not."""
    return asset_folder(cache, "summarization", made_of(settings.recipe))


def unbuilt(settings: SummarizationSettings, cache: Path) -> str:
    """Return what has to be built, in words; empty where the cache has it."""
    if is_complete(location(settings, cache)):
        return ""
    return "building policy and reward model of summaries, once"


def prepare(settings: SummarizationSettings, cache: Path) -> Path:
    """Return the folder of the task's models, building them when they are not in the cache."""
    recipe = settings.recipe
    return build_once(cache, "summarization", made_of(recipe), lambda folder: _build(recipe, cache, folder))


def load(settings: SummarizationSettings, folder: Path | None) -> Task:
    """Return the task from the folder that ``prepare`` returned."""
    assert folder is not None
    quiet_transformers()
    prompts = json.loads((folder / "prompts.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False)
    return Task(
        name="summarization",
        policy=AutoModelForCausalLM.from_pretrained(folder / "policy", **SAFE).eval(),
        tokenizer=tokenizer,
        reward_model=CausalRewardModel.from_pretrained(folder / "reward_model"),
        gold_model=ReferenceRewardModel(settings.gold, tokenizer, prompts["test"], prompts["references"]),
        train_prompts=Prompts.of_ids(prompts["train"]),
        held_out_prompts=Prompts.of_ids(prompts["test"]),
        quality=read_manifest(folder)["facts"],
    )


def load_judge(settings: SummarizationSettings, folder: Path | None, asked: Sequence[PromptRow]) -> Judge:
    """Return the reward model alone, with the ids of ``asked``.

    To the tiny policy a prompt is all that it reads: ``approach: ... summary:``. To SmolLM2 it is what a user says.

    Raises:
        ConfigError: A prompt is a chat, and the policy knows none.
    """
    assert folder is not None
    quiet_transformers()
    tokens = SummaryTokens.of(AutoTokenizer.from_pretrained(folder / "policy", trust_remote_code=False))
    if not tokens.chat:
        for row in asked:
            row.check_plain()
    prompts = tuple(tokens.ids(row) for row in asked)
    return Judge(tokens.tokenizer, CausalRewardModel.from_pretrained(folder / "reward_model"), prompts)


def made_of(recipe: SummaryRecipe) -> dict[str, Any]:
    """Return everything that decides what is built, as plain values: the key of the cache."""
    corpus = [file.member_sha256 for file in CORPUS]
    model = {"model": SMOLLM2.member_sha256} if recipe.policy == "smollm2" else {}
    return {**recipe.model_dump(), **model, "corpus": corpus, "shares": SHARES}


def _build(recipe: SummaryRecipe, cache: Path, folder: Path) -> dict[str, Any]:
    quiet_transformers()
    keep_freed_memory()
    papers = read_papers(fetch_papers(cache))[: recipe.max_papers]
    known = [paper for paper in papers if paper.part != "test"]
    if recipe.policy == "tiny":
        policy, tokens, trunk = train_tiny(recipe, known, folder / "scratch")
    else:
        loaded, tokenizer = load_smollm2(cache)
        policy = trunk = cast(LlamaForCausalLM, loaded)
        tokens = SummaryTokens.of(tokenizer)
    policy.save_pretrained(folder / "policy")
    tokens.tokenizer.save_pretrained(folder / "policy")
    asked = human_examples(_part(papers, "policy"), recipe.source_words)
    held_out = human_examples(_part(papers, "test"), recipe.source_words, 1)
    prompts = [tokens.prompt(example) for example in held_out]
    kept = {"train": [tokens.prompt(each) for each in asked], "test": prompts}
    (folder / "prompts.json").write_text(json.dumps({**kept, "references": [each.summary for each in held_out]}))
    model = _reward_model(recipe, trunk, tokens, _part(papers, "reward"), folder / "scratch")
    eos = int(tokens.tokenizer.eos_token_id)
    scale_prompts = kept["train"][:: max(1, len(asked) // NORMALIZATION_PROMPTS)][:NORMALIZATION_PROMPTS]
    samples = own_samples(policy, scale_prompts, NORMALIZATION_TOKENS, eos, True, recipe.seed)
    model.config.score_mean, model.config.score_deviation = score_scale(CausalRewardModel(model), samples)
    model.save_pretrained(folder / "reward_model")
    tokens.tokenizer.save_pretrained(folder / "reward_model")
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    facts = _reward_facts(recipe, CausalRewardModel(model), tokens, held_out)
    return {"papers": len(papers), **facts, **_rouge_facts(policy, tokens, held_out, recipe.seed)}


def _reward_model(
    recipe: SummaryRecipe, trunk: LlamaForCausalLM, tokens: SummaryTokens, papers: list[Paper], scratch: Path
) -> Any:
    """Return the reward model: the papers' own sentences come first, as human summaries are few."""
    layers = min(recipe.reward_layers or trunk.config.num_hidden_layers, trunk.config.num_hidden_layers)
    model = new_reward_model(trunk, layers, recipe.frozen_layers)
    human = human_examples(papers, recipe.source_words, REWARD_WINDOWS)
    chosen = []
    if recipe.policy == "tiny":
        copied = copied_examples(papers, recipe.source_words, 1, COPIED_SEED + recipe.seed)
        chosen += comparisons(copied, tokens.prompt, tokens.summary, recipe.seed)
        train_on_comparisons(recipe, model, chosen, scratch)
    chosen = [
        each
        for epoch in range(recipe.reward_epochs)
        for each in comparisons(human, tokens.prompt, tokens.summary, recipe.seed + epoch + 1)
    ]
    train_on_comparisons(recipe, model, chosen, scratch)
    return model


def _reward_facts(
    recipe: SummaryRecipe, reward_model: CausalRewardModel, tokens: SummaryTokens, held_out: list[Example]
) -> dict[str, float]:
    chosen = comparisons(held_out, tokens.prompt, tokens.summary, recipe.seed)
    quality = comparison_quality(reward_model, chosen)
    # Own, others' and shuffled summaries: what is cut shares its prefixes with the whole.
    rows = [(each.prompt, response) for each in chosen for response in (each.better, *each.worse[:2])]
    prompts, responses = [prompt for prompt, _ in rows], [response for _, response in rows]
    quality |= prefix_calibration(reward_model, prompts, responses, int(tokens.tokenizer.eos_token_id))
    return {f"reward_model_{name}": value for name, value in quality.items()}


def _rouge_facts(
    policy: LlamaForCausalLM, tokens: SummaryTokens, held_out: list[Example], seed: int
) -> dict[str, float]:
    """Return ROUGE on held-out papers: of the untrained policy, of the source itself, and of another's summary."""
    eos, prompts = int(tokens.tokenizer.eos_token_id), [tokens.prompt(each) for each in held_out]
    sampled = own_samples(policy, prompts, NORMALIZATION_TOKENS, eos, True, seed)
    rows = unpadded(sampled.response_ids, sampled.response_mask)
    texts = {
        "policy": texts_of(tokens.tokenizer, rows),
        "source": [each.source for each in held_out],
        "another_summary": [each.summary for each in (*held_out[3:], *held_out[:3])],
    }
    return {
        f"{measure}_{name}": sum(score(each.summary, text) for each, text in zip(held_out, given, strict=True))
        / len(given)
        for measure, score in MEASURES.items()
        for name, given in texts.items()
    }


def _part(papers: Sequence[Paper], part: str) -> list[Paper]:
    return [paper for paper in papers if paper.part == part]
