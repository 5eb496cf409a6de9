"""Character offsets between a policy's tokens, their text, and another tokenizer's tokens.

A policy's tokens were sampled, not encoded: they need not be how their text would be encoded again. Their offsets
therefore come from decoding growing prefixes: token ``t`` ends where the text of ``y_<=t`` stops agreeing with the
text of the whole response. A byte of a character that is still incomplete ends where it began.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from shaping.errors import ConfigError
from shaping.rollouts import Rollouts, opening_tokens, padded


@dataclass(frozen=True)
class DecodedRollouts:
    """The texts of a batch.

    Attributes:
        rollouts: The batch.
        prompts: The text of each prompt.
        responses: The text of each response.
        ends: For each response the number of its characters that stand after each of its real tokens.
        finished: For each response whether its last token ends it.
    """

    rollouts: Rollouts
    prompts: list[str]
    responses: list[str]
    ends: list[list[int]]
    finished: list[bool]

    @classmethod
    def of(cls, rollouts: Rollouts, tokenizer: Any, more_end_ids: tuple[int, ...] = ()) -> DecodedRollouts:
        """Return the texts of a batch; special tokens have no characters.

        Args:
            rollouts: The batch.
            tokenizer: The policy's; its end-of-sequence ends a response.
            more_end_ids: Other tokens that end one.
        """
        rows = [_row(rollouts, row) for row in range(len(rollouts))]
        decoded = [_decode_row(tokenizer, prompt, response) for prompt, response in rows]
        prompts, responses = [prompt for prompt, _, _ in decoded], [response for _, response, _ in decoded]
        ends = [reached for _, _, reached in decoded]
        closing = [[token] for token in (tokenizer.eos_token_id, *more_end_ids)]
        finished = [response[-1:] in closing for _, response in rows]
        return cls(rollouts, prompts, responses, ends, finished)

    def kept_text(self, row: int, keep: list[bool], blank: str = "") -> str:
        """Return the characters of the kept tokens of a response, in order, and ``blank`` for each of the others."""
        ends, text = self.ends[row], self.responses[row]
        starts = [0, *ends[:-1]]
        return "".join(text[a:b] if kept else blank for a, b, kept in zip(starts, ends, keep, strict=False))


def texts_of(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    """Return the text of each row of ids, as reward models get it: special tokens have no characters."""
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


def _row(rollouts: Rollouts, row: int) -> tuple[list[int], list[int]]:
    prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
    return prompt, rollouts.response_ids[row][rollouts.response_mask[row]].tolist()


def _decode_row(tokenizer: Any, prompt: list[int], response: list[int]) -> tuple[str, str, list[int]]:
    """Return prompt text, response text, and where in the latter each response token ends."""
    # Decoded together: some tokenizers drop a leading space where a text begins.
    rows = [prompt + response[:count] for count in range(len(response) + 1)]
    texts = texts_of(tokenizer, rows)
    whole, start, reached, ends = texts[-1], _agreement(texts[0], texts[-1], 0), 0, []
    for text in texts[1:]:
        # A later token may change how earlier bytes are shown; what once was complete stays so.
        reached = max(reached, _agreement(text, whole, start) - start)
        ends.append(reached)
    return whole[:start], whole[start:], ends


def _agreement(text: str, whole: str, known: int) -> int:
    """Return how many first characters two texts share; at least ``known`` if the first ``known`` agree."""
    limit = min(len(text), len(whole))
    place = known if text[:known] == whole[:known] else 0
    while place < limit and text[place] == whole[place]:
        place += 1
    return place


@dataclass(frozen=True)
class AlignedRollouts:
    """A batch in another tokenizer's tokens.

    Attributes:
        rollouts: Prompts and responses of the other tokenizer: ``B x P'`` and ``B x T'``.
        policy_token: For each of those response tokens the one policy token that completes it: ``B x T'``, 0 on
            padding.
    """

    rollouts: Rollouts
    policy_token: Tensor

    @classmethod
    def of(cls, decoded: DecodedRollouts, tokenizer: Any, framed: bool, eos_token_id: int | None) -> AlignedRollouts:
        """Return a decoded batch in the tokens of ``tokenizer``.

        Args:
            decoded: The texts and the policy's offsets.
            tokenizer: The reward model's tokenizer.
            framed: Whether prompts begin with what the tokenizer puts before a text.
            eos_token_id: Stands for the policy's final special token; ``None`` leaves that out.

        Raises:
            ConfigError: The tokenizer gives no offsets.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"the reward model's tokenizer {type(tokenizer).__name__} gives no character offsets",
                "load its fast version (a tokenizer.json)",
            )
        opening = opening_tokens(tokenizer) if framed else []
        prompts, responses, owners = [], [], []
        for row in range(len(decoded.prompts)):
            prompt = tokenizer(decoded.prompts[row], add_special_tokens=False)["input_ids"]
            prompts.append(opening + list(prompt))
            encoded = tokenizer(decoded.responses[row], add_special_tokens=False, return_offsets_mapping=True)
            ids, owner = list(encoded["input_ids"]), _owners(decoded.ends[row], encoded["offset_mapping"])
            if eos_token_id is not None and decoded.finished[row]:
                ids, owner = [*ids, eos_token_id], [*owner, len(decoded.ends[row]) - 1]
            responses.append(ids)
            owners.append(owner)
        device = decoded.rollouts.response_ids.device
        policy_token, _ = padded(owners, left=False, device=device)
        return cls(Rollouts.of_ids(prompts, responses, device), policy_token)

    def keep(self, owner: Tensor, keep: Tensor) -> Tensor:
        """Return which of the other tokens stay (``R x T'``) when the policy tokens ``keep`` (``R x T``) do."""
        return keep.gather(1, self.policy_token[owner]) & self.rollouts.response_mask[owner]

    def to_policy(self, values: Tensor, width: int) -> Tensor:
        """Return ``B x T`` values, each of ``B x T'`` values added to its policy token: none lost, none doubled."""
        moved = values.new_zeros(len(values), width)
        return moved.scatter_add_(1, self.policy_token, values * self.rollouts.response_mask)


def _owners(ends: list[int], offsets: list[tuple[int, int]]) -> list[int]:
    """Return for each token of the text the policy token that completes it: non-decreasing."""
    owners, reached = [], 0
    for _, end in offsets:
        reached = max(reached, min(bisect_left(ends, end), len(ends) - 1))
        owners.append(reached)
    return owners
