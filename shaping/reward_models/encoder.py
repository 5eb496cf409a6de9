"""An encoder with a classification head, such as DistilBERT: SCAR's sentiment setting (arXiv 2505.20417).

A row is framed as the tokenizer frames texts: ``[CLS] prompt response [SEP]``, or with the response as second text.
Attention runs both ways, so nothing of a row can be shared with another; rows are only packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from shaping.errors import ConfigError
from shaping.gradients import TRIAL_POINTS, integrated_gradients
from shaping.reward_models.attention_rows import attention_row, share_of_response
from shaping.reward_models.base import (
    BoundedPasses,
    VariantScores,
    check_absent,
    check_context,
    check_vocabulary,
    find_mask_token,
    weights_identity,
)
from shaping.reward_models.layouts import Laid, even_packs, packs, portions
from shaping.reward_models.loading import check_is_model
from shaping.reward_models.positions import Positions
from shaping.reward_models.probes import Abilities, HasAbilities, find_encoder_abilities
from shaping.reward_models.tree_rows import EVEN, PADDED
from shaping.reward_models.trial import Trials, Values, Way, refusing_failures
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


class EncoderRewardModel(HasAbilities):
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
        self.name = name or type(model).__name__
        check_is_model(model, self.name)
        labels = model.config.num_labels
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
        self.passes = BoundedPasses(model, max_tokens_per_forward)
        self._label, self._frame, self._pair = label or 0, Frame.of(tokenizer, pair), pair
        self.added_tokens = self._frame.tokens
        self.layers = int(model.config.get_text_config().num_hidden_layers)
        self._padding: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
        self._trials = Trials(model, self.name)
        self._mask_token = self._find_mask_token(tokenizer, mask_token_id)

    @cached_property
    def positions(self) -> Positions:
        """Most tokens of a row, and the token that has no position."""
        around = (self._frame.before, self._frame.after)
        with refusing_failures(self.name):
            return Positions.of(self.model, lambda ids: self._own({"input_ids": ids}), self._padding, around)

    @property
    def context(self) -> int | None:
        """Most tokens of a row, special ones included; ``None`` where nothing limits them."""
        return self.positions.limit

    @cached_property
    def _found(self) -> Abilities:
        return find_encoder_abilities(self, {"absent_mask"} if self._mask_token is not None else set())

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
        return self.score_variants(variants)

    @torch.inference_mode()
    def score_variants(self, variants: Variants) -> VariantScores:
        """Return the score of every variant, whatever the model's abilities are: these are found with it."""
        check_vocabulary(self.model, variants.rollouts, self.name)
        if not len(variants):
            return VariantScores(torch.zeros(0, device=self.model.device), 0)
        self.model.eval()
        hides = variants.absent == "attention"
        unseen, mask_token = (~variants.keep, None) if hides else (None, self._mask_token)
        words = variants.kept_ids() if variants.absent == "delete" else variants.all_ids(mask_token)
        prompts, mask = variants.rollouts.prompt_ids, variants.rollouts.prompt_mask
        lengths = (mask.sum(dim=1)[variants.owner] + (words != NO_TOKEN).sum(dim=1) + self._frame.tokens).cpu()

        def inputs_of(rows: Tensor, width: int) -> dict[str, Tensor]:
            """Return what the encoder is given for some rows, cut to a width."""
            chosen = rows.to(words.device)
            owner = variants.owner[chosen]
            hidden = None if unseen is None else unseen[chosen]
            framed = self._accepted(self._framed(prompts[owner], mask[owner], words[chosen], hidden))
            return {name: value[:, :width].to(self.model.device) for name, value in framed.items()}

        def scored(rows: Tensor, width: int) -> Tensor:
            """Return the own scores of some rows: ``n x 1``."""
            return self._own(inputs_of(rows, width))

        def alone(row: int) -> Tensor:
            """Return a row's score without padding."""
            return scored(torch.tensor([row]), int(lengths[row])).squeeze(1)

        def ways() -> Iterator[Way]:
            """Yield layouts, the cheapest first."""
            most = self.passes.most_tokens
            yield Way.packed(PADDED, packs(lengths, most), scored)
            yield Way.packed(EVEN, even_packs(lengths, most), scored, even=True)

        what = "scores with hidden units" if hides else "scores"
        found = self._trials.first_right(what, ways(), lengths, alone)
        if found is None:
            return VariantScores(
                self._scale(torch.cat([alone(row) for row in range(len(lengths))])), int(lengths.sum())
            )
        return VariantScores(self._scale(found[0].squeeze(1)), sum(tokens for _, tokens in found[1].passes))

    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores, each from a forward pass of its own."""
        scores = self.score(Variants.prefixes(rollouts)).values
        return scores.view(len(rollouts), rollouts.response_ids.shape[1] + 1)

    @torch.inference_mode()
    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Return ``B x T`` attention from the token where the encoder is read, its first one, to the response.

        Raises:
            ConfigError: The model gives no map of the sequence for that layer.
            ShapeError: It attends to no token of a response.
        """
        rollouts = rollouts.to(self.model.device)

        def of(laid: Laid) -> Tensor:
            """Return the attention of some rows as they are laid out: ``n x T``."""
            read = torch.zeros(len(laid.rows), dtype=torch.long, device=self.model.device)
            row = attention_row(self.model, laid.inputs, read, layer, heads, self.layers)
            return row.gather(1, laid.start) * rollouts.response_mask[laid.rows]

        found = self._rows_right(f"attention of layer {layer} ({heads})", rollouts, of)
        return share_of_response(found, rollouts.response_mask, self.name)

    @torch.inference_mode(False)
    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients of the score on the embeddings of the tokens in ``absent``."""
        rollouts, absent = rollouts.to(self.model.device), absent.to(self.model.device)

        def of(laid: Laid, points: int = steps) -> Tensor:
            """Return the gradients of some rows as they are laid out: ``n x T``."""
            ids, wanted = laid.inputs["input_ids"], absent[laid.rows]
            replaced = torch.zeros_like(ids).scatter_add_(1, laid.start, wanted.long()) > 0
            score = partial(self.score_embedded, inputs=laid.inputs)
            path = integrated_gradients(self.model.get_input_embeddings(), score, ids, replaced, points)
            return path.gather(1, laid.start) * wanted

        return self._rows_right("gradients", rollouts, of, partial(of, points=min(steps, TRIAL_POINTS)))

    def score_embedded(self, embedded: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Return the score of framed rows given as embeddings: ``n x L x d``."""
        others = {name: value for name, value in inputs.items() if name != "input_ids"}
        return self._scale(self.model(inputs_embeds=embedded, **others).logits[:, self._label])

    def own_score(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return what the model gives for framed rows, scaled: one value a row."""
        return self._scale(self._own(inputs).squeeze(1))

    def framed(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Return the inputs of whole responses."""
        return self._whole(rollouts)[0]

    def _own(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return ``n x 1`` raw scores."""
        logits: Tensor = self.model(**inputs).logits
        return logits[:, self._label : self._label + 1]

    def _laid(self, rollouts: Rollouts, rows: Tensor) -> Laid:
        """Return some rows as one pass; ``start`` is the column of every response token: ``n x T``."""
        inputs, place = self._whole(rollouts.select(rows))
        return Laid(rows, inputs, place)

    def _rows_right(self, what: str, rollouts: Rollouts, of: Values, sample: Values | None = None) -> Tensor:
        """Return something of whole responses: of several padded rows at once where that is right, or row by row.

        A trial looks at ``sample`` in its place.
        """
        self.model.eval()
        check_vocabulary(self.model, rollouts, self.name)
        several = [
            self._laid(rollouts, rows) for rows in portions(rollouts, self._frame.tokens, self.passes.most_tokens)
        ]
        every = torch.arange(len(rollouts), device=self.model.device)[:, None]
        lengths = (rollouts.prompt_tokens + rollouts.response_tokens).cpu() + self._frame.tokens
        way, tried = Way.of_layout(PADDED, several, of, len(rollouts), sample), sample or of
        found = self._trials.first_right(what, [way], lengths, lambda row: tried(self._laid(rollouts, every[row]))[0])
        if found is not None:
            return found[0]
        return Way.of_layout("", [self._laid(rollouts, rows) for rows in every], of, len(rollouts)).compute()

    def _find_mask_token(self, tokenizer: Any, wanted: int | None) -> int | None:
        padding, uncounted = self._padding, self.positions.uncounted
        if wanted is not None and wanted == uncounted:
            raise ConfigError(
                f"mask_token_id = {wanted} is the padding of reward model {self.name}, which has no positions",
                "choose another token",
            )
        usual = [getattr(tokenizer, "mask_token_id", None), None if padding == uncounted else padding]
        return find_mask_token(self.model, wanted, usual, self.name)

    def _whole(self, rollouts: Rollouts) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of whole responses and where each response token stands in its row: ``B x T``."""
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
        width = int((ids != NO_TOKEN).sum(dim=1).max())
        check_context(self.context, width, self.name)
        ids, second = ids[:, :width], second[:, :width]
        real = ids != NO_TOKEN
        seen = real
        if hidden is not None:
            around = (first_text + len(self._frame.between), len(self._frame.after))
            seen = real & ~pad(hidden, around).gather(1, left)[:, :width]
        return {
            "input_ids": torch.where(real, ids, self._padding or 0),
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

    def _scale(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.mean) / self.deviation
