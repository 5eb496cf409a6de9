"""Error of sampled Shapley values on games that no regression on single units fits, beside shapiq's.

    python -m benchmarks.credit.rugged

The rugged game is a random reward model of two GPT-2 layers with wide weights, asked about 12 random tokens: most
of its variance is interaction. The narrow one has narrow weights. The game of pairs has main effects, pairs and noise,
and the smooth one is a sum that saturates. Error is ``|phi - exact| / |exact|`` against all 2^12 coalitions. shapiq's
is the smaller of two: KernelSHAP paired, and as it comes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification

from benchmarks.common.record import Claim, current_commit, markdown, write
from benchmarks.credit.accuracy import UNITS, ours
from benchmarks.credit.peers import Estimator, Values, shapiq_default, shapiq_paired
from shaping.credit.coalition_plan import all_coalitions
from shaping.credit.shapley_exact import exact_values

BUDGETS = (64, 128, 256, 512)
GAMES, SEEDS, BOOTSTRAP = 24, 4, 1_000
PROMPT_TOKENS, VOCABULARY = 4, 200
WIDE, NARROW = 0.4, 0.1
ESTIMATORS: dict[str, Estimator] = {"Shapetune": ours, "paired": shapiq_paired, "default": shapiq_default}
# From budgets to errors: estimators x games.
Errors = dict[int, Values]


def main() -> None:
    """Measure everything and write ``results/credit_rugged.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=GAMES, help="of each kind")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="samples of each game")
    options, commit = parser.parse_args(), current_commit()
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[int], Tensor]] = {
        "rugged": partial(random_transformer, width=WIDE),
        "narrow": partial(random_transformer, width=NARROW),
        "pairs": pairs_and_noise,
        "smooth": saturating_sum,
    }
    claims, rows = [], []
    for kind, game in kinds.items():
        errors = measure([game(seed) for seed in range(options.games)], options.seeds)
        for budget, found in errors.items():
            ratio = over_shapiq(f"credit.error_over_shapiq_{kind}_{budget}", found)
            claims.append(ratio)
            means = [f"{error:.3f}" for error in found.mean(axis=1)]
            rows.append((kind, budget, *means, f"{ratio.value:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}"))
    columns = ("game", "evaluations", "Shapetune", "shapiq, paired", "shapiq, default", "over shapiq", "95 % interval")
    details: dict[str, object] = {"units": UNITS, "games": options.games, "seeds": options.seeds}
    write("credit_rugged", claims, markdown(columns, rows), details, commit, module="credit.rugged")


def measure(games: list[Tensor], seeds: int) -> Errors:
    """Return the error of each estimator on each game, a mean over seeds, at every budget."""
    return {
        budget: np.array([[error(estimate, game, budget, seeds) for game in games] for estimate in ESTIMATORS.values()])
        for budget in BUDGETS
    }


def error(estimate: Estimator, values: Tensor, budget: int, seeds: int) -> float:
    """Return the mean relative error of an estimator on one game, whose ``2^N`` values are in binary order."""
    exact, worth = exact_values(values[None])[0].numpy(), values.numpy()

    def game(coalitions: NDArray[np.bool_]) -> Values:
        found: Values = worth[(np.asarray(coalitions).astype(int) * 2 ** np.arange(UNITS)).sum(axis=1)]
        return found

    found = [estimate(game, UNITS, budget, seed) for seed in range(seeds)]
    return float(np.mean([np.linalg.norm(each - exact) for each in found]) / np.linalg.norm(exact))


def over_shapiq(name: str, errors: Values) -> Claim:
    """Return this project's mean error over the smaller of shapiq's two, with its bootstrap interval over games.

    Args:
        name: The claim's.
        errors: Estimators x games.
    """

    def ratio(games: NDArray[np.int64]) -> float:
        mine, *theirs = errors[:, games].mean(axis=1)
        return float(mine / min(theirs))

    generator, count = np.random.default_rng(0), errors.shape[1]
    drawn = [ratio(games) for games in generator.integers(0, count, (BOOTSTRAP, count))]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Claim(name, ratio(np.arange(count)), float(low), float(high), count)


@torch.inference_mode()
def random_transformer(seed: int, width: float) -> Tensor:
    """Return the scores of all coalitions of 12 random tokens by a random GPT-2 with weights of that deviation."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=width,
        num_labels=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = GPT2ForSequenceClassification(config).eval()
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, VOCABULARY, (PROMPT_TOKENS + UNITS,), generator=generator)
    members, scores = all_coalitions(UNITS), torch.zeros(2**UNITS, dtype=torch.float64)
    for size in range(UNITS + 1):
        rows = torch.nonzero(members.sum(dim=1) == size).squeeze(1)
        kept = text[PROMPT_TOKENS:].expand(len(rows), -1)[members[rows]].view(len(rows), size)
        ids = torch.cat([text[:PROMPT_TOKENS].expand(len(rows), -1), kept], dim=1)
        scores[rows] = model(input_ids=ids).logits[:, 0].double()
    return scores


def pairs_and_noise(seed: int) -> Tensor:
    """Return a game of main effects, pairs and noise on every coalition."""
    generator = torch.Generator().manual_seed(seed)
    members = all_coalitions(UNITS).double()
    alone = torch.randn(UNITS, generator=generator, dtype=torch.float64)
    together = 0.3 * torch.randn(UNITS, UNITS, generator=generator, dtype=torch.float64).triu(1)
    noise = torch.randn(2**UNITS, generator=generator, dtype=torch.float64)
    return members @ alone + ((members @ together) * members).sum(dim=1) + noise


def saturating_sum(seed: int) -> Tensor:
    """Return a game whose value grows with a sum over the units, ever less so."""
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(all_coalitions(UNITS).double() @ torch.randn(UNITS, generator=generator, dtype=torch.float64))


if __name__ == "__main__":
    main()
