"""An encoder with a classification head, such as DistilBERT: SCAR's sentiment setting (arXiv 2505.20417).

A row is framed as the tokenizer frames texts: ``[CLS] prompt response [SEP]``, or with the response as second text.
Attention runs both ways, so nothing of a row can be shared with another; rows are only packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from shaping.errors import ConfigError
from shaping.gradients import integrated_gradients
from shaping.reward_models.attention_rows import attention_row, share_of_response
from shaping.reward_models.base import (
    VariantScores,
    check_absent,
    check_context,
    check_vocabulary,
    find_mask_token,
    max_tokens,
    packs,
    portions,
    uncounted_token,
    weights_identity,
)
from shaping.rollouts import Rollouts
from shaping.variants import NO_TOKEN, Variants


@dataclass(frozen=True)
class Frame:
    """Special tokens before, between and after prompt and response."""

    before: list[int]
    between: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: Any, pair: bool) -> Frame:
        """Return how a tokenizer frames one text or two, seen on a text that both ways can be told apart."""
        text = "a"
        core = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer(text, text)["input_ids"] if pair else tokenizer(text)["input_ids"]
        places = [i for i in range(len(whole) - len(core) + 1) if whole[i : i + len(core)] == core]
        first, last = places[0], places[-1]
        between = whole[first + len(core) : last] if pair else []
        return cls(whole[:first], between, whole[last + len(core) :])

    @property
    def tokens(self) -> int:
        """Special tokens of a row."""
        return len(self.before) + len(self.between) + len(self.after)


class EncoderRewardModel:
    """An encoder classifier whose logit is the score.

    Args:
        model: A Hugging Face sequence classifier with a bidirectional backbone.
        tokenizer: The model's tokenizer: says how a text is framed.
        label: The label whose logit is the score; may be left out where there is only one.
        pair: Whether prompt and response are two texts to the model, or one.
        mean: The raw score that becomes 0.
        deviation: The raw difference that becomes 1.
        name: What the reward model is called in files and messages.
        max_tokens_per_forward: Bound of one forward pass; a single row that is longer is forwarded alone.
        mask_token_id: What stands for absent tokens under ``absent: mask``; by default the tokenizer's mask token, or
            else the model's padding.

    Raises:
        ConfigError: The model has several labels and none was chosen, the chosen one does not exist, or the mask
            token cannot be used.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        label: int | None = None,
        pair: bool = False,
        mean: float = 0.0,
        deviation: float = 1.0,
        name: str = "",
        max_tokens_per_forward: int | None = None,
        mask_token_id: int | None = None,
    ) -> None:
        self.name, labels = name or type(model).__name__, model.config.num_labels
        if label is None and labels != 1:
            raise ConfigError(
                f"reward model {self.name} has {labels} labels: {model.config.id2label}",
                "say with label which one's logit is the score",
            )
        if label is not None and not 0 <= label < labels:
            raise ConfigError(
                f"label = {label} does not exist", f"reward model {self.name} has labels 0 to {labels - 1}"
            )
        self.model, self.mean, self.deviation = model.eval().requires_grad_(False), mean, deviation
        self.max_tokens_per_forward = max_tokens(model, max_tokens_per_forward)
        self._label, self._frame, self._pair = label or 0, Frame.of(tokenizer, pair), pair
        self.added_tokens = self._frame.tokens
        self.layers = int(model.config.num_hidden_layers)
        self._mask_token = self._find_mask_token(tokenizer, mask_token_id)
        masking = {"absent_mask"} if self._mask_token is not None else set()
        self.abilities = frozenset({"attention", "gradient", "absent_attention"} | masking)

    @property
    def pair(self) -> bool:
        """Whether prompt and response are two texts to the model."""
        return self._pair

    def identity(self) -> str:
        """Return a hash of the weights and of the scale: what an exported shape is bound to."""
        return weights_identity(self.model, self.mean, self.deviation)

    @torch.inference_mode()
    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant.

        Raises:
            ConfigError: The model cannot take tokens away as the variants ask for.
            ShapeError: A variant is longer than the model's context.
        """
        check_absent(variants.absent, self.abilities, self.name)
        check_vocabulary(self.model, variants.rollouts, self.name)
        hides = variants.absent == "attention"
        hidden, mask_token = (~variants.keep, None) if hides else (None, self._mask_token)
        words = variants.kept_ids() if variants.absent == "delete" else variants.all_ids(mask_token)
        prompts, mask = variants.rollouts.prompt_ids, variants.rollouts.prompt_mask
        lengths = mask.sum(dim=1)[variants.owner] + (words != NO_TOKEN).sum(dim=1) + self._frame.tokens
        scores, forwarded = torch.zeros(len(variants), device=self.model.device), 0
        for rows, width in packs(lengths.cpu(), self.max_tokens_per_forward):
            chosen = rows.to(words.device)
            owner = variants.owner[chosen]
            unseen = None if hidden is None else hidden[chosen]
            framed = self._framed(prompts[owner], mask[owner], words[chosen], unseen)
            inputs = {name: value[:, :width].to(self.model.device) for name, value in framed.items()}
            scores[rows] = self._scale(self.model(**self._accepted(inputs)).logits)
            forwarded += width * len(rows)
        return VariantScores(scores, forwarded)

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores, each from a forward pass of its own."""
        scores = self.score(Variants.prefixes(rollouts)).values
        return scores.view(len(rollouts), rollouts.response_ids.shape[1] + 1)

    @torch.inference_mode()
    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Return ``B x T`` attention from the first token, where an encoder is read, to the response."""
        rollouts, found = rollouts.to(self.model.device), []
        for rows in portions(rollouts, self._frame.tokens, self.max_tokens_per_forward):
            given = rollouts.select(rows)
            inputs, place = self._whole(given)
            read = torch.zeros(len(rows), dtype=torch.long, device=self.model.device)
            row = attention_row(self.model, inputs, read, layer, heads)
            found.append(share_of_response(row.gather(1, place), given.response_mask))
        return torch.cat(found)

    @torch.inference_mode(False)
    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients of the score on the embeddings of the tokens in ``absent``."""
        rollouts, absent, found = rollouts.to(self.model.device), absent.to(self.model.device), []
        for rows in portions(rollouts, self._frame.tokens, self.max_tokens_per_forward):
            inputs, place = self._whole(rollouts.select(rows))
            ids = inputs.pop("input_ids")
            replaced = torch.zeros_like(ids).scatter_add_(1, place, absent[rows].long()) > 0

            def score(embedded: Tensor, inputs: dict[str, Tensor] = inputs) -> Tensor:
                return self._scale(self.model(inputs_embeds=embedded, **inputs).logits)

            path = integrated_gradients(self.model.get_input_embeddings(), score, ids, replaced, steps)
            found.append(path.gather(1, place) * absent[rows])
        return torch.cat(found)

    def _find_mask_token(self, tokenizer: Any, wanted: int | None) -> int | None:
        padding, uncounted = self.model.config.pad_token_id, uncounted_token(self.model)
        if wanted is not None and wanted == uncounted:
            raise ConfigError(
                f"mask_token_id = {wanted} is the padding of reward model {self.name}, which has no positions",
                "choose another token",
            )
        usual = [getattr(tokenizer, "mask_token_id", None), None if padding == uncounted else padding]
        return find_mask_token(self.model, wanted, usual, self.name)

    def _whole(self, rollouts: Rollouts) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of whole responses and where each response token stands in its row: ``B x T``."""
        check_vocabulary(self.model, rollouts, self.name)
        words = torch.where(rollouts.response_mask, rollouts.response_ids, NO_TOKEN)
        inputs = self._framed(rollouts.prompt_ids, rollouts.prompt_mask, words)
        first = len(self._frame.before) + rollouts.prompt_tokens + len(self._frame.between)
        place = first[:, None] + torch.arange(words.shape[1], device=words.device)
        accepted = self._accepted({name: value.to(self.model.device) for name, value in inputs.items()})
        return accepted, place.clamp(max=inputs["input_ids"].shape[1] - 1).to(self.model.device)

    def _framed(self, prompts: Tensor, mask: Tensor, words: Tensor, hidden: Tensor | None = None) -> dict[str, Tensor]:
        """Return rows of framed tokens, padded on the right, with masks that leave ``hidden`` words out, and texts."""
        parts = [self._special(self._frame.before, words), torch.where(mask, prompts, NO_TOKEN)]
        first_text = sum(part.shape[1] for part in parts)
        parts += [self._special(self._frame.between, words), words, self._special(self._frame.after, words)]
        ids = torch.cat(parts, dim=1)
        second = torch.zeros_like(ids)
        second[:, first_text + len(self._frame.between) :] = int(self._pair)
        left = torch.argsort((ids == NO_TOKEN).to(torch.int8), dim=1, stable=True)
        ids, second = ids.gather(1, left), second.gather(1, left)
        real = ids != NO_TOKEN
        check_context(self.model, int(real.sum(dim=1).max()), self.name)
        seen = real
        if hidden is not None:
            around = (first_text + len(self._frame.between), len(self._frame.after))
            seen = real & ~pad(hidden, around).gather(1, left)
        return {
            "input_ids": torch.where(real, ids, self.model.config.pad_token_id or 0),
            "attention_mask": seen.long(),
            "token_type_ids": second * real,
        }

    @staticmethod
    def _special(ids: list[int], like: Tensor) -> Tensor:
        return torch.tensor(ids, dtype=like.dtype, device=like.device).expand(len(like), -1)

    def _accepted(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # DistilBERT and RoBERTa know no second kind of text.
        if getattr(self.model.config, "type_vocab_size", 0) < 2:
            inputs.pop("token_type_ids")
        return inputs

    def _scale(self, logits: Tensor) -> Tensor:
        return (logits[:, self._label].float() - self.mean) / self.deviation
