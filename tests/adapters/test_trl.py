"""TRL's own GRPO trainer, with token rewards: what comes out is what a loop over tokens finds."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from shaping import ConfigError, Rollouts, Shape, Shaper
from shaping.adapters.group_advantages import group_advantages
from shaping.adapters.trl import LOSSES, DenseGRPOTrainer, check_arguments
from tests.support.models.tiny_models import BOS, EOS, encode, tiny_policy, tiny_reward_model, tiny_tokenizer

PROMPTS = ["the film", "i liked the cast of the film", "bad", "why"]
SIZE = 4
# Made once: making it draws random numbers, and so does sampling.
JUDGE = tiny_reward_model()
SPARSE, DENSE = Shape(), Shape(weights={"prefix": 0.5, "shapley": 0.5}, gae_lambda=0.7)


def by_hand(scores: list[float], rewards: list[list[float]], mask: list[list[int]], scale: str) -> list[list[float]]:
    """Return advantages by walking over groups, responses and tokens."""
    rows = range(len(scores))
    paid = [[sum(rewards[row][:place]) for place in range(len(rewards[row]))] for row in rows]
    moved, centred = [[0.0] * len(row) for row in rewards], [0.0] * len(scores)
    for row in rows:
        group = range(row - row % SIZE, row - row % SIZE + SIZE)
        known = [each for each in group if not math.isnan(scores[each])]
        centred[row] = scores[row] - sum(scores[each] for each in known) / len(known) if row in known else math.nan
        for place in range(len(rewards[row])):
            there = [each for each in known if mask[each][place]]
            if row in there:
                moved[row][place] = paid[row][place] - sum(paid[each][place] for each in there) / len(there)
    found = [[0.0] * len(row) for row in rewards]
    for row in rows:
        whose = list(rows) if scale == "batch" else list(range(row - row % SIZE, row - row % SIZE + SIZE))
        known = [each for each in whose if not math.isnan(scores[each])]
        tokens = [moved[each][place] for each in known for place in range(len(mask[each])) if mask[each][place]]
        mean = sum(scores[each] for each in known) / len(known)
        variance = sum((scores[each] - mean) ** 2 for each in known) / (len(known) - 1) if len(known) > 1 else math.nan
        least = math.sqrt(sum(value**2 for value in tokens) / max(1, len(tokens)))
        spread = 1.0 if scale == "none" else max(math.sqrt(variance) + 1e-4, least)
        for place in range(len(rewards[row])):
            value = (centred[row] - moved[row][place]) / spread
            found[row][place] = value if mask[row][place] and not math.isnan(value) else 0.0
    return found


def random_batch(seed: int, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, rewards and mask of three groups, with masked tokens in the middle and rows of any length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (3 * SIZE,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    mask &= (torch.rand(mask.shape, generator=generator) > 0.2) | (torch.arange(width) == 0)
    rewards = torch.randn(mask.shape, generator=generator) * mask
    return rewards.sum(dim=1), rewards, mask


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_those_of_a_loop_over_tokens(scale: str, seed: int) -> None:
    scores, rewards, mask = random_batch(seed)
    found = group_advantages(scores, rewards, mask, SIZE, scale)
    expected = by_hand(scores.tolist(), rewards.tolist(), mask.tolist(), scale)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    assert not found[~mask].any()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_response_without_a_score_counts_for_nothing(scale: str) -> None:
    scores, rewards, mask = random_batch(1)
    scores[1], scores[5:8] = float("nan"), float("nan")
    found = group_advantages(scores, rewards, mask, SIZE, scale)
    expected = by_hand(scores.tolist(), rewards.tolist(), mask.tolist(), scale)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    assert not found[1].any() and not found[5:8].any()


def test_sparse_rewards_have_the_advantages_of_grpo_and_first_tokens_always_do() -> None:
    scores, rewards, mask = random_batch(2)
    sparse = torch.zeros_like(rewards)
    for row in range(len(scores)):
        sparse[row, int(mask[row].nonzero().max())] = scores[row]
    grouped = scores.view(-1, SIZE)
    grpo = ((grouped - grouped.mean(dim=1, keepdim=True)) / (grouped.std(dim=1, keepdim=True) + 1e-4)).flatten()
    found = group_advantages(scores, sparse, mask, SIZE)
    torch.testing.assert_close(found, grpo[:, None] * mask, atol=1e-5, rtol=0)
    plain = group_advantages(scores, rewards, mask, SIZE, "none")
    torch.testing.assert_close(plain[:, 0], (grouped - grouped.mean(dim=1, keepdim=True)).flatten())


def test_scores_that_are_all_alike_do_not_make_advantages_explode() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    found = group_advantages(rewards.sum(dim=1), rewards, torch.ones(4, 3), SIZE)
    assert 0.5 < float(found.abs().max()) < 3


def config(folder: Path, **changes: Any) -> GRPOConfig:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2 * SIZE,
        "num_generations": SIZE,
        "max_completion_length": 8,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "seed": 3,
        "disable_tqdm": True,
    }
    return GRPOConfig(**{**options, **changes})


class Seen:
    """Keeps what a trainer's loss was given."""

    batches: list[dict[str, Any]]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self.batches = [*getattr(self, "batches", []), dict(found)]
        return found


class Plain(Seen, GRPOTrainer):
    pass


class Dense(Seen, DenseGRPOTrainer):
    pass


def shaper_for(shape: Shape) -> Any:
    return lambda tokenizer: Shaper(shape, JUDGE, tokenizer)


def judged(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **given: Any) -> list[float]:
    """Score as the tiny reward model does; TRL encodes prompts as its tokenizer does."""
    ids = [tiny_tokenizer()(prompt)["input_ids"] for prompt in prompts]
    return Shaper(SPARSE, JUDGE, tiny_tokenizer()).scores(Rollouts.of_ids(ids, completion_ids)).tolist()


def trained(kind: type, folder: Path, shape: Shape | None = None, **changes: Any) -> Any:
    options: dict[str, Any] = {"make_shaper": shaper_for(shape)} if shape is not None else {"reward_funcs": [judged]}
    options.update({key: changes.pop(key) for key in ("rollout_func", "reward_funcs") if key in changes})
    trainer = kind(
        tiny_policy(),
        args=config(folder, **changes),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tiny_tokenizer(),
        **options,
    )
    trainer.train()
    return trainer


def parameters(trainer: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(Plain, tmp_path_factory.mktemp("plain"))


def test_a_sparse_shape_trains_exactly_as_trl_does(plain: Any, tmp_path: Path) -> None:
    sparse = trained(Dense, tmp_path, SPARSE)
    for ours, theirs in zip(sparse.batches, plain.batches, strict=True):
        assert torch.equal(ours["completion_ids"], theirs["completion_ids"])
        mask = theirs["completion_mask"].bool()
        torch.testing.assert_close(ours["advantages"][mask], theirs["advantages"][:, None].expand(mask.shape)[mask])
    # Adam divides by the gradient's own size: where that is next to nothing, the last bit decides on some processors.
    moved = (parameters(sparse) - parameters(plain)).abs()
    assert float((moved > 1e-6).float().mean()) < 1e-3 and float(moved.max()) < 1e-4
    assert sparse.state.log_history[0]["rewards/reward_model_score/mean"] == pytest.approx(
        plain.state.log_history[0]["rewards/judged/mean"], abs=1e-4
    )


def test_a_dense_shape_gives_the_loss_the_advantages_of_its_token_rewards(plain: Any, tmp_path: Path) -> None:
    dense = trained(Dense, tmp_path, DENSE)
    batch = dense.batches[0]
    assert torch.equal(batch["completion_ids"], plain.batches[0]["completion_ids"])
    mask = batch["completion_mask"].bool()
    rollouts = Rollouts(batch["prompt_ids"], batch["prompt_mask"].bool(), batch["completion_ids"], mask)
    rewards = Shaper(DENSE, JUDGE, tiny_tokenizer())(rollouts)
    scores = Shaper(SPARSE, JUDGE, tiny_tokenizer()).scores(rollouts)
    expected = by_hand(scores.tolist(), rewards.tolist(), mask.tolist(), "group")
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected), atol=1e-4, rtol=0)
    first = plain.batches[0]["advantages"]
    alike = torch.sign(batch["advantages"][:, 0]) == torch.sign(first)
    assert bool(alike[first.abs() > 1e-3].all())
    assert float((batch["advantages"] - first[:, None]).abs()[mask].max()) > 0.1
    assert float((parameters(dense) - parameters(plain)).abs().max()) > 1e-3


def test_what_a_reward_function_gives_is_what_the_rewards_sum_to(tmp_path: Path) -> None:
    def length(completions: list[str], **given: Any) -> list[float]:
        return [len(text) / 10 for text in completions]

    seen: list[Tensor] = []

    def make(tokenizer: Any) -> Shaper:
        shaper = Shaper(DENSE, JUDGE, tokenizer)
        inner = shaper.shaped

        def noted(rollouts: Rollouts, scores: Tensor | None = None, adjustment: Tensor | None = None) -> Any:
            found = inner(rollouts, scores, adjustment)
            seen.append(found.token_rewards.sum(dim=1))
            return found

        shaper.shaped = noted  # type: ignore[method-assign]
        return shaper

    trainer = Dense(
        tiny_policy(),
        make,
        [length],
        args=config(tmp_path, max_steps=1),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    assert seen[0].tolist() == pytest.approx(trainer._rewards[:, 0].tolist(), abs=1e-5)
    assert float(trainer._rewards.max()) > 0


def test_what_tools_answered_has_no_advantage(tmp_path: Path) -> None:
    turns = [encode("was good,"), encode("why?"), [*encode("great cast!"), EOS]]

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        rows = len(prompts)
        shift = [row % 3 for row in range(rows)]
        ids = [[*turns[0][: 1 + shift[row]], *turns[1], *turns[2]] for row in range(rows)]
        masks = [[1] * (1 + shift[row]) + [0] * len(turns[1]) + [1] * len(turns[2]) for row in range(rows)]
        return {
            "prompt_ids": [[BOS, *encode(prompt)] for prompt in prompts],
            "completion_ids": ids,
            "logprobs": [[-1.0] * len(row) for row in ids],
            "env_mask": masks,
        }

    trainer = trained(Dense, tmp_path, DENSE, rollout_func=rollout, max_steps=1)
    batch = trainer.batches[0]
    mask = batch["completion_mask"].bool() & batch["tool_mask"].bool()
    assert not batch["advantages"][~mask].any() and bool(batch["advantages"][mask].abs().gt(1e-6).any())
    real = batch["completion_mask"].bool()
    rollouts = Rollouts(batch["prompt_ids"], batch["prompt_mask"].bool(), batch["completion_ids"], real, mask)
    rewards = Shaper(DENSE, JUDGE, tiny_tokenizer())(rollouts)
    expected = by_hand(rewards.sum(dim=1).tolist(), rewards.tolist(), mask.tolist(), "group")
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_type": "vespo"}, "loss_type = vespo takes one advantage a response"),
        ({"loss_type": "luspo"}, "loss_type = luspo takes one advantage a response"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalises each reward before it sums"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level = sequence"),
    ],
)
def test_arguments_that_lose_where_the_reward_falls_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        trained(Dense, tmp_path, DENSE, **changes)
    assert caught.value.hint


def test_gamma_is_refused_and_lambda_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert check_arguments(DENSE.with_changes(gae_lambda=1.0), config(tmp_path)) == []
    with pytest.raises(ConfigError, match=r"gamma 0\.9"):
        check_arguments(DENSE.with_changes(gamma=0.9, policy_preserving=False), config(tmp_path))
    trained(Dense, tmp_path, DENSE, max_steps=1)
    assert "the shape's lambda 0.7 does not apply" in caplog.text


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_that_is_let_through_weighs_tokens_by_their_advantage(loss: str, tmp_path: Path) -> None:
    trainer = trained(Dense, tmp_path, DENSE, max_steps=1, loss_type=loss)
    batch = trainer._prepare_inputs([{"prompt": prompt} for prompt in PROMPTS[:2] for _ in range(SIZE)])
    gradients = []
    for advantages in (
        batch["advantages"],
        batch["advantages"].mean(dim=1, keepdim=True).expand_as(batch["advantages"]),
    ):
        trainer.model.zero_grad()
        trainer._compute_loss(trainer.model, {**batch, "advantages": advantages.contiguous()}).backward()
        gradients.append(torch.cat([value.grad.flatten() for value in trainer.model.parameters()]).clone())
    assert float((gradients[0] - gradients[1]).abs().max()) > 1e-4


def test_a_response_may_end_at_every_token_that_the_model_names() -> None:
    completions = [[5, EOS], [5, 9], [5, 6], []]
    made: Any = SimpleNamespace(
        _generated=([[BOS]] * 4, completions, None),
        _missing_eos_penalty=0.5,
        _shaper=SimpleNamespace(scores=lambda rollouts: torch.zeros(len(rollouts))),
        eos_token_ids=[EOS, 9],
    )
    assert DenseGRPOTrainer.reward_model_score(made, []) == [0.0, 0.0, -0.5, -0.5]
