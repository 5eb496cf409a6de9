"""A causal language model with a scalar head: coalitions share their prompts and prefixes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from shaping.attention_implementation import attention_of
from shaping.errors import ConfigError, ShapeError
from shaping.gradients import integrated_gradients
from shaping.prefix_tree import PrefixTree, TreePass
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
    weights_identity,
)
from shaping.rollouts import Rollouts, model_inputs
from shaping.tree_attention import NAME, TreeAttention, UnsupportedAttention, check_window
from shaping.variants import NO_TOKEN, Variants, with_last_token

logger = logging.getLogger(__name__)

# Relative difference of hidden states between both paths, far above rounding and far below a wrong attention.
SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
SAME_IN_HALF_PRECISION = 5e-2


class CausalRewardModel:
    """A causal language model with a scalar head, read at the last token.

    Args:
        model: A Hugging Face sequence classifier with one label and a causal backbone.
        mean: The raw score that becomes 0.
        deviation: The raw difference that becomes 1.
        name: What the reward model is called in files and messages.
        eos_token_id: Read the score at this token, and append it to every row that does not end with it; ``None``
            reads the score at whatever token is last.
        max_tokens_per_forward: Bound of one forward pass; by default chosen for the device. A single row that is
            longer is forwarded alone.
        share_prefixes: Whether coalitions of a response share the tokens that they begin with.
        mask_token_id: What stands for absent tokens under ``absent: mask``; by default the mask or padding token of
            the model's config, unless padding is end-of-sequence: that would end the text.

    Raises:
        ConfigError: The model has more than one label, its head cannot be found, a bound is not positive, or the
            mask token is beyond the vocabulary.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        mean: float = 0.0,
        deviation: float = 1.0,
        name: str = "",
        eos_token_id: int | None = None,
        max_tokens_per_forward: int | None = None,
        share_prefixes: bool = True,
        mask_token_id: int | None = None,
    ) -> None:
        head = getattr(model, "score", None)
        self.name = name or type(model).__name__
        if head is None or head.weight.shape[0] != 1:
            raise ConfigError(
                f"reward model {self.name} has no scalar head named score",
                "use a causal sequence classification model with num_labels = 1",
            )
        self.model = model.eval().requires_grad_(False)
        self.layers = int(model.config.get_text_config().num_hidden_layers)
        self.mean, self.deviation, self.eos_token_id = mean, deviation, eos_token_id
        self.max_tokens_per_forward = max_tokens(model, max_tokens_per_forward)
        self._head, self.share_prefixes = head, share_prefixes
        self._mask_token = find_mask_token(model, mask_token_id, _usual_mask_tokens(model, eos_token_id), self.name)
        self._tree_works: bool | None = None
        self._places_work: bool | None = None
        # Read at end-of-sequence, a score along the response is not a score of its prefix.
        prefix = set() if eos_token_id is not None else {"prefix"}
        sharing = {"sharing"} if share_prefixes else set()
        absent = {"absent_mask"} if self._mask_token is not None else set()
        absent |= {"absent_attention"} if _takes_positions(model) else set()
        self.abilities = frozenset({"attention", "gradient"} | prefix | sharing | absent)
        self.added_tokens = 0 if eos_token_id is None else 1

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", **options: Any) -> CausalRewardModel:
        """Return the reward model saved in ``folder``; its config may hold ``score_mean`` and ``score_deviation``."""
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False
        ).to(device)
        mean, deviation = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_deviation", 1.0)
        return cls(model, float(mean), float(deviation), Path(folder).name, **options)

    @staticmethod
    def tokenizer(folder: str | Path) -> Any:
        """Return the tokenizer saved beside the reward model."""
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def identity(self) -> str:
        """Return a hash of the weights and of the scale: what an exported shape is bound to."""
        return weights_identity(self.model, self.mean, self.deviation)

    @torch.inference_mode()
    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant; prompts and shared prefixes are forwarded once.

        Without end-of-sequence it is read at the last token that is not deleted or hidden.

        Raises:
            ConfigError: The model cannot take tokens away as the variants ask for.
            ShapeError: A variant has no token to read the score at, or is longer than the model's context.
        """
        rollouts = variants.rollouts
        check_absent(variants.absent, self.abilities, self.name)
        check_vocabulary(self.model, rollouts, self.name)
        words, places = self._words(variants)
        owner, mask = variants.owner.cpu(), rollouts.prompt_mask.cpu()
        prompt_tokens, tokens = mask.sum(dim=1)[owner], (words != NO_TOKEN).sum(dim=1)
        if places is not None:
            tokens = torch.cat([tokens[:, None], places + 1], dim=1).amax(dim=1)
            self._check_places(int((prompt_tokens + tokens).max()))
        self._check(prompt_tokens, tokens)
        tree = PrefixTree.of(rollouts.prompt_ids.cpu(), mask, owner, words, self.share_prefixes, places)
        raw, forwarded = self._raw_scores(tree)
        return VariantScores(self._scale(raw)[tree.inverse.to(raw.device)], forwarded)

    @torch.inference_mode()
    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores from one forward pass (R3HF, arXiv 2411.08302)."""
        rollouts = rollouts.to(self.model.device)
        check_vocabulary(self.model, rollouts, self.name)
        self._check(rollouts.prompt_tokens, rollouts.response_tokens)
        # The first score is read before any response token.
        self._check(rollouts.prompt_tokens, torch.zeros_like(rollouts.prompt_tokens))
        prompt_width, width = rollouts.prompt_ids.shape[1], rollouts.response_ids.shape[1]
        found = []
        for rows in portions(rollouts, 0, self.max_tokens_per_forward):
            given = rollouts.select(rows)
            hidden = self.model.base_model(**model_inputs(given)).last_hidden_state
            scores = self._scale(self._head(hidden[:, prompt_width - 1 :]).squeeze(-1))
            positions = torch.arange(width + 1, device=scores.device)
            found.append(scores.gather(1, torch.minimum(positions[None], given.response_tokens[:, None])))
        return torch.cat(found)

    @torch.inference_mode()
    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Return ``B x T`` attention as ABC uses it (arXiv 2402.00782): from the last token to the response."""
        rollouts = rollouts.to(self.model.device)
        read = self._as_read(rollouts)
        prompt_width = read.prompt_ids.shape[1]
        found = []
        for rows in portions(read, 0, self.max_tokens_per_forward):
            given = read.select(rows)
            found.append(attention_row(self.model, model_inputs(given), prompt_width + given.last_token, layer, heads))
        return share_of_response(torch.cat(found)[:, prompt_width:], rollouts.response_mask)

    @torch.inference_mode(False)
    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients of the score (Sundararajan et al., arXiv 1703.01365).

        The path leads from the vocabulary's mean embedding, in place of the tokens in ``absent`` (``B x T``), to
        the tokens themselves; a row sums to the score's change along it, up to the quadrature of ``steps`` points.
        """
        read, width = self._as_read(rollouts.to(self.model.device)), rollouts.response_ids.shape[1]
        absent = absent.to(self.model.device)
        prompt_width = read.prompt_ids.shape[1]
        found = []
        for rows in portions(read, 0, self.max_tokens_per_forward):
            given = read.select(rows)
            inputs, last = model_inputs(given), prompt_width + given.last_token
            replaced = torch.zeros_like(given.sequences()[1])
            replaced[:, prompt_width : prompt_width + width] = absent[rows]

            def score(embedded: Tensor, inputs: dict[str, Tensor] = inputs, last: Tensor = last) -> Tensor:
                others = {name: value for name, value in inputs.items() if name != "input_ids"}
                hidden = self.model.base_model(inputs_embeds=embedded, **others).last_hidden_state
                return self._scale(self._head(hidden[torch.arange(len(hidden)), last]).squeeze(-1))

            path = integrated_gradients(self.model.get_input_embeddings(), score, inputs["input_ids"], replaced, steps)
            found.append(path[:, prompt_width : prompt_width + width])
        return torch.cat(found)

    @property
    def shares_work(self) -> bool:
        """Whether prompts and prefixes are really shared: tried once, on the model itself."""
        if self._tree_works is None:
            self._tree_works = self._try_tree()
        return self._tree_works

    def _try_tree(self) -> bool:
        """Return whether the tree gives what plain forward passes give; if not, say so once."""
        prompts, mask = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([[True, True, False], [True, True, True]])
        words = torch.tensor([[6, 7, 8], [6, 9, NO_TOKEN], [NO_TOKEN] * 3, [7, 8, 9], [7, 8, 6]])
        size = self.model.config.get_text_config().vocab_size
        words = torch.where(words == NO_TOKEN, words, words % size)
        tree = PrefixTree.of(prompts % size, mask, torch.tensor([0, 0, 0, 1, 1]), words)
        try:
            shared = torch.cat([self._leaves(part) for part in tree.passes(64)])
            found = list(self._rows(tree))
            plain, order = torch.cat([hidden for _, hidden, _ in found]), torch.cat([rows for rows, _, _ in found])
            reason = self._mismatch(shared[order], plain)
        except (UnsupportedAttention, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = str(error) or type(error).__name__
        if reason:
            self._say_unshared(reason)
        return not reason

    def _mismatch(self, found: Tensor, plain: Tensor) -> str:
        """Return in words by how much hidden states differ that should be alike; nothing where they do not."""
        found, plain = found.float(), plain.float()
        difference = float((found - plain).norm() / plain.norm())
        allowed = SAME.get(self.model.dtype, SAME_IN_HALF_PRECISION)
        return "" if difference <= allowed else f"its results would differ by {difference:.1g}"

    def _check_places(self, longest: int) -> None:
        """Refuse to hide tokens where leaving them out, all others in their places, is not what masking them is.

        Raises:
            ConfigError: Hidden tokens leave a trace, as in a recurrent state: tried once, on the model itself.
            ShapeError: A window of attention ends within the ``longest`` row: hidden tokens take room in it.
        """
        if self._places_work is None:
            ids = (torch.arange(1, 9) % self.model.config.get_text_config().vocab_size)[None]
            seen = torch.tensor([[True, True, True, False, True, False, False, True]])
            words, places = ids[seen][None, 2:], torch.nonzero(seen[0, 2:]).T
            tree = PrefixTree.of(ids[:, :2], seen[:, :2], torch.tensor([0]), words, places=places)
            ((_, found, _),) = self._rows(tree)
            inputs = {"input_ids": ids, "attention_mask": seen.long(), "position_ids": torch.arange(8)[None]}
            on_device = {name: value.to(self.model.device) for name, value in inputs.items()}
            plain = self.model.base_model(**on_device, use_cache=False).last_hidden_state[:, -1]
            self._places_work = not self._mismatch(found, plain)
        if not self._places_work:
            check_absent("attention", frozenset(), self.name)
        try:
            check_window(self.model, longest)
        except UnsupportedAttention as error:
            raise ShapeError(
                f"absent = attention in reward model {self.name}: {error}",
                "set absent to delete or mask, or shorten the prompts or the responses",
            ) from error

    def _words(self, variants: Variants) -> tuple[Tensor, Tensor | None]:
        """Return the rows to read (``R x W``), and where their tokens stand if not one behind the other."""
        if variants.absent == "delete":
            words = variants.kept_ids().cpu()
            return words if self.eos_token_id is None else with_last_token(words, self.eos_token_id), None
        if self.eos_token_id is not None:
            variants = variants.ending_with(self.eos_token_id)
        if variants.absent == "attention":
            return variants.kept_ids().cpu(), variants.kept_places().cpu()
        return variants.all_ids(self._mask_token).cpu(), None

    def _say_unshared(self, reason: str) -> None:
        logger.warning(
            "reward model %s (%s) scores coalitions one by one, without shared prefixes: %s",
            self.name,
            self.model.config.model_type,
            reason.splitlines()[0],
        )

    def _raw_scores(self, tree: PrefixTree) -> tuple[Tensor, int]:
        """Return the head's output for every distinct row, and the tokens forwarded."""
        if self.shares_work:
            try:
                return self._score_tree(tree)
            except UnsupportedAttention as error:
                # The first try had short rows: only longer ones show that attention has a window.
                self._tree_works = False
                self._say_unshared(str(error))
        return self._score_rows(tree)

    def _score_tree(self, tree: PrefixTree) -> tuple[Tensor, int]:
        found, forwarded = [], 0
        for part in tree.passes(self.max_tokens_per_forward):
            found.append(self._head(self._leaves(part)).squeeze(-1))
            forwarded += len(part.ids)
        return torch.cat(found), forwarded

    def _leaves(self, part: TreePass) -> Tensor:
        """Return the hidden state at the end of each row of a pass."""
        device = self.model.device
        tree = TreeAttention.of(part, device)
        check_window(self.model, tree.longest)
        with attention_of(self.model, NAME):
            output = self.model.base_model(
                input_ids=part.ids[None].to(device),
                position_ids=part.positions[None].to(device),
                use_cache=False,
                tree=tree,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden[part.leaves.to(device)]

    def _score_rows(self, tree: PrefixTree) -> tuple[Tensor, int]:
        scores, forwarded = torch.zeros(len(tree.words), device=self.model.device), 0
        for rows, hidden, tokens in self._rows(tree):
            scores[rows] = self._head(hidden).squeeze(-1).float()
            forwarded += tokens
        return scores, forwarded

    def _rows(self, tree: PrefixTree) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield rows, the hidden states at their ends, and the tokens forwarded, padding included."""
        (ids, lengths), positions = tree.rows(), tree.row_positions()
        for rows, width in packs(lengths, self.max_tokens_per_forward):
            # Under causal attention padding on the right needs no mask.
            inputs = {"input_ids": ids[rows, :width]}
            if positions is not None:
                # Without a mask the library would take a gap in the positions for the start of another text.
                mask = torch.arange(width) < lengths[rows][:, None]
                inputs["position_ids"], inputs["attention_mask"] = positions[rows, :width], mask.long()
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
            last = lengths[rows].to(hidden.device) - 1
            yield rows, hidden[torch.arange(len(rows)), last], len(rows) * width

    def _as_read(self, rollouts: Rollouts) -> Rollouts:
        """Return the rollouts as the head reads them: with end-of-sequence where it is read there."""
        check_vocabulary(self.model, rollouts, self.name)
        read = rollouts if self.eos_token_id is None else rollouts.ending_with(self.eos_token_id)
        self._check(read.prompt_tokens, read.response_tokens)
        return read

    def _check(self, prompt_tokens: Tensor, response_tokens: Tensor) -> None:
        lengths = prompt_tokens + response_tokens
        if len(lengths) and int(lengths.min()) == 0:
            raise ShapeError(
                "a response without prompt has no token left to read a score at once its units are absent",
                "put a beginning-of-sequence token before it",
            )
        check_context(self.model, int(lengths.max()) if len(lengths) else 0, self.name)

    def _scale(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.mean) / self.deviation


def _usual_mask_tokens(model: PreTrainedModel, eos_token_id: int | None) -> list[int | None]:
    config = model.config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    padding = None if config.pad_token_id in [*ends, eos_token_id] else config.pad_token_id
    return [getattr(config, "mask_token_id", None), padding]


def _takes_positions(model: PreTrainedModel) -> bool:
    """Return whether a model can be told its positions; ALiBi counts them itself, hidden tokens left out."""
    told = "position_ids" in inspect.signature(model.base_model.forward).parameters
    return told and not getattr(model.config.get_text_config(), "alibi", False)
