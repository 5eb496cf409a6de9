"""Character offsets between a policy's tokens, their text, and another tokenizer's tokens.

A policy's tokens were sampled, not encoded: they need not be how their text would be encoded again. Their offsets
therefore come from decoding: token ``t`` ends where the text of ``y_<=t`` stops agreeing with the text of the whole
response. A byte of a character that is still incomplete ends where it began.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from shaping.rollouts import Rollouts, opening_tokens, padded
from shaping.texts.invisible import ends_of, invisible_tokens
from shaping.texts.reading import Reading, Span, check_offsets
from shaping.texts.token_ends import byte_tokens, token_ends


@dataclass(frozen=True)
class DecodedRollouts:
    """The texts of a batch.

    Attributes:
        rollouts: The batch.
        prompts: The text of each prompt.
        responses: The text of each response.
        ends: For each response the number of its characters that stand after each of its real tokens.
        finished: For each response whether its last token is one that ends the policy's responses.
        added: For each response where tokens stand in it that were added to the policy's vocabulary, such as
            ``<think>``; left out: nowhere.
    """

    rollouts: Rollouts
    prompts: list[str]
    responses: list[str]
    ends: list[list[int]]
    finished: list[bool]
    added: list[list[Span]] = field(default_factory=list)

    @classmethod
    def of(cls, rollouts: Rollouts, tokenizer: Any) -> DecodedRollouts:
        """Return the texts of a batch; see ``texts_of`` for the tokens that have no characters."""
        rows = [_row(rollouts, row) for row in range(len(rollouts))]
        together = _decoded_together(tokenizer)
        decoded = [token_ends(partial(texts_of, tokenizer), *row, together) for row in rows]
        prompts, responses = [each.prompt for each in decoded], [each.response for each in decoded]
        ends = [each.ends for each in decoded]
        final, words = ends_of(tokenizer), set(getattr(tokenizer, "added_tokens_decoder", ()))
        finished = [not final.isdisjoint(response[-1:]) for _, response in rows]
        added = [
            _spans(text, reached, [token in words for token in response])
            for (_, response), text, reached in zip(rows, responses, ends, strict=True)
        ]
        return cls(rollouts, prompts, responses, ends, finished, added)

    def kept_text(self, row: int, keep: list[bool], blank: str = "") -> str:
        """Return the characters of the kept tokens of a response, in order, and ``blank`` for each of the others."""
        ends, text = self.ends[row], self.responses[row]
        starts = [0, *ends[:-1]]
        return "".join(text[a:b] if kept else blank for a, b, kept in zip(starts, ends, keep, strict=False))


def texts_of(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    """Return the text of each row of ids, as reward models and readers get it.

    Tokens that frame texts and turns, such as end-of-sequence, have no characters; other special ones, such as
    ``<think>``, are part of what was said. See ``invisible_tokens``.
    """
    unseen = invisible_tokens(tokenizer)
    shown = [[token for token in map(int, row) if token not in unseen] for row in rows]
    texts: list[str] = tokenizer.batch_decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return texts


def _decoded_together(tokenizer: Any) -> frozenset[int]:
    """Return the tokens whose runs are decoded as one; those without characters do not end a run."""
    bytes_of_words = byte_tokens(tokenizer, len(tokenizer)) if hasattr(tokenizer, "__len__") else frozenset()
    return bytes_of_words | invisible_tokens(tokenizer) if bytes_of_words else bytes_of_words


def _spans(text: str, ends: list[int], chosen: list[bool]) -> list[Span]:
    """Return where the chosen tokens stand, without the spaces that a decoder puts around them."""
    found = []
    for start, end, wanted in zip([0, *ends], ends, chosen, strict=False):
        part = text[start:end]
        if wanted and part.strip():
            start += len(part) - len(part.lstrip())
            found.append((start, start + len(part.strip())))
    return found


def _row(rollouts: Rollouts, row: int) -> tuple[list[int], list[int]]:
    prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
    return prompt, rollouts.response_ids[row][rollouts.response_mask[row]].tolist()


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
    def of(
        cls, decoded: DecodedRollouts, tokenizer: Any, framed: bool, eos_token_id: int | None, separate: bool = False
    ) -> AlignedRollouts:
        """Return a decoded batch in the tokens of ``tokenizer``.

        Prompt and response are encoded as one text. What ends within the prompt is the prompt's, and all else the
        response's, also a token that reaches across.

        Args:
            decoded: The texts and the policy's offsets.
            tokenizer: The reward model's tokenizer.
            framed: Whether prompts begin with what the tokenizer puts before a text.
            eos_token_id: Stands for the policy's final special token; ``None`` leaves that out.
            separate: Whether prompt and response are two texts to the reward model.

        Raises:
            ConfigError: The tokenizer gives no offsets.
        """
        check_offsets(tokenizer)
        opening, read = opening_tokens(tokenizer) if framed else [], Reading.apart if separate else Reading.joined
        prompts, responses, owners = [], [], []
        for row, (prompt, response) in enumerate(zip(decoded.prompts, decoded.responses, strict=True)):
            found = read(tokenizer, prompt, response, decoded.added[row] if decoded.added else ())
            # A prompt's text may begin with beginning-of-sequence itself.
            opened = found.prompt[: len(opening)] == opening
            prompts.append(found.prompt if opened else opening + found.prompt)
            ids, owner = found.response, _owners(decoded.ends[row], found.ends)
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


def _owners(ends: list[int], reaching: list[int]) -> list[int]:
    """Return for each token, by where it ends, the policy token that completes it: non-decreasing."""
    owners, reached = [], 0
    for end in reaching:
        reached = max(reached, min(bisect_left(ends, end), len(ends) - 1))
        owners.append(reached)
    return owners
