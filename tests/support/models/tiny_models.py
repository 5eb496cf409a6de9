"""Shared builders: random models of 16 hidden units, a tokenizer made in memory, and games with known values."""

from __future__ import annotations

from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from shaping import CausalRewardModel, Rollouts, ScoredBatch, Shape, UnitSplitter, score_batch
from shaping.reward_models import VariantScores
from shaping.variants import Variants

torch.set_num_threads(1)

PAD, BOS, EOS = 0, 1, 2
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
CORPUS = [
    "the film was good, the plot was not; why?",
    "a great cast! the end was bad. i liked the film",
    "bad acting, good music: a dull film. the cast was great",
]
VOCABULARY = 290
# Away from 0 and 1, so that a forgotten normalisation shows.
SCORE_MEAN, SCORE_DEVIATION = 0.3, 0.7


@lru_cache(maxsize=1)
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def encode(text: str) -> list[int]:
    """Return the ids of a text, without special tokens."""
    return list(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"])


def tiny_config(vocabulary: int | None = None, **changes: object) -> LlamaConfig:
    options: dict[str, object] = {
        "vocab_size": vocabulary or len(tiny_tokenizer()),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        # Wide weights: at the usual 0.02 a random model hardly depends on its input, and tests see nothing.
        "initializer_range": 0.4,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": None,
    }
    return LlamaConfig(**{**options, **changes})


def tiny_policy(seed: int = 0, vocabulary: int | None = None) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(vocabulary)).eval()


def tiny_classifier(seed: int = 1, attention: str = "sdpa") -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    config = tiny_config(num_labels=1, attn_implementation=attention)
    return LlamaForSequenceClassification(config).eval()


def tiny_reward_model(seed: int = 1) -> CausalRewardModel:
    return CausalRewardModel(tiny_classifier(seed), SCORE_MEAN, SCORE_DEVIATION, "tiny")


def make_rollouts(prompts: list[list[int]], responses: list[list[int]], pad: int = PAD, width: int = 1) -> Rollouts:
    """Return rollouts with prompts padded on the left and responses on the right, at least ``width`` wide."""
    prompt_width = max(len(row) for row in prompts)
    response_width = max([width, *(len(row) for row in responses)])
    return Rollouts(
        torch.tensor([[pad] * (prompt_width - len(row)) + row for row in prompts]),
        torch.tensor([[False] * (prompt_width - len(row)) + [True] * len(row) for row in prompts]),
        torch.tensor([row + [pad] * (response_width - len(row)) for row in responses]),
        torch.tensor([[True] * len(row) + [False] * (response_width - len(row)) for row in responses]),
    )


def mixed_rollouts() -> Rollouts:
    """Return responses of no token, one token, one unit, and several, some with end-of-sequence, prompts padded."""
    prompts = ["the film", "a", "i liked the cast of the film", "bad", "good music", "the plot was", "why"]
    responses = [
        [],
        encode("good")[:1],
        [*encode("bad."), EOS],
        encode("the film was good, the plot was not; why?"),
        [*encode("a great cast! the end was bad."), EOS],
        [EOS],
        encode("dull film. the cast"),
    ]
    return make_rollouts([[BOS, *encode(prompt)] for prompt in prompts], responses)


def real_ids(rollouts: Rollouts, row: int) -> tuple[list[int], list[int]]:
    """Return a row's prompt and response without padding."""
    prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
    return prompt, rollouts.response_ids[row][rollouts.response_mask[row]].tolist()


@torch.no_grad()
def plain_score(classifier: LlamaForSequenceClassification, ids: list[int]) -> float:
    """Return Hugging Face's score of one unpadded row, normalised: the oracle of every reward-model path."""
    raw = classifier(input_ids=torch.tensor([ids])).logits
    return (float(raw) - SCORE_MEAN) / SCORE_DEVIATION


def scored_batch(
    reward_model: object,
    rollouts: Rollouts,
    unit: str = "token",
    budget: int = 64,
    seed: int = 0,
    max_span: int = 4,
    max_units: int = 64,
    tokenizer: object | None = None,
    **options: object,
) -> ScoredBatch:
    shape = Shape(unit=unit, max_span=max_span, max_units=max_units, budget=budget, **options)
    units = UnitSplitter(tokenizer or tiny_tokenizer())
    return score_batch(rollouts, reward_model, units, shape, torch.Generator().manual_seed(seed))


class ListTokenizer:
    """A vocabulary written out: what the splitter reads of a tokenizer, and no more."""

    def __init__(self, tokens: list[str], special: tuple[int, ...] = (PAD, BOS, EOS)) -> None:
        self.tokens, self.all_special_ids = tokens, list(special)

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.tokens[index] for index in ids]


FIRST_PLAYER = 3


class GameRewardModel:
    """A reward model whose score is a cooperative game: player ``i`` is present when token ``3 + i`` is.

    Args:
        values: The game: a ``2^N`` tensor, bit ``i`` of the index for player ``i``.
    """

    name, abilities, layers = "game", frozenset({"prefix", "attention", "sharing"}), 1
    added_tokens = 0

    def __init__(self, values: Tensor) -> None:
        self.values = values.float()
        self.players = len(values).bit_length() - 1

    def tokenizer(self) -> ListTokenizer:
        return ListTokenizer(["<pad>", "<s>", "</s>", *(f"w{player}" for player in range(self.players))])

    def rollouts(self, rows: int = 1) -> Rollouts:
        """Return ``rows`` copies of the response in which every player stands, in order."""
        response = [FIRST_PLAYER + player for player in range(self.players)]
        return make_rollouts([[BOS]] * rows, [response] * rows)

    def batch(self, budget: int = 2**20, seed: int = 0, rows: int = 1, **options: object) -> ScoredBatch:
        tokenizer = self.tokenizer()
        return scored_batch(self, self.rollouts(rows), budget=budget, seed=seed, tokenizer=tokenizer, **options)

    def score(self, variants: Variants) -> VariantScores:
        words = variants.kept_ids()
        bits = torch.where(words >= FIRST_PLAYER, 2 ** (words - FIRST_PLAYER).clamp(min=0), 0)
        return VariantScores(self.values[bits.sum(dim=1)], int((words >= 0).sum()))

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        return self.score(Variants.prefixes(rollouts)).values.view(len(rollouts), -1)

    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        return rollouts.response_mask / rollouts.response_tokens.clamp(min=1)[:, None]


def random_game(players: int, seed: int) -> Tensor:
    """Return a game without any structure, ``v(none)`` not 0."""
    return torch.randn(2**players, generator=torch.Generator().manual_seed(seed))


def additive_game(weights: Tensor, base: float = 0.0) -> Tensor:
    """Return ``v(S) = base + sum of the weights in S``."""
    return base + members_of_all(len(weights)).float() @ weights


def members_of_all(players: int) -> Tensor:
    """Return which players are in coalition ``0 .. 2^N - 1``."""
    return torch.tensor([[coalition >> player & 1 for player in range(players)] for coalition in range(2**players)]) > 0
