"""A causal language model with a scalar head: coalitions share their prompts and prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from shaping.errors import ConfigError, ShapeError
from shaping.gradients import TRIAL_POINTS, integrated_gradients
from shaping.prefix_tree import PrefixTree
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
from shaping.reward_models.layouts import (
    Laid,
    last_real,
    one_by_one,
    one_row,
    padded_left,
    padded_right,
    response_columns,
)
from shaping.reward_models.loading import check_is_model, load_reward_model, scalar_head
from shaping.reward_models.positions import Positions
from shaping.reward_models.probes import Abilities, HasAbilities, find_abilities, short_rollouts
from shaping.reward_models.tree_rows import SHARED, TreeRows
from shaping.reward_models.trial import Trials, Values, Way, refusing_failures
from shaping.rollouts import Rollouts
from shaping.tree_attention import UnsupportedAttention, check_window
from shaping.variants import NO_TOKEN, Variants, with_last_token

LEFT, RIGHT, SINGLE = "padded on the left", "padded on the right", "in one pass a row"


class CausalRewardModel(HasAbilities):
    """A causal language model with a scalar head, read at the last token.

    What it scores is what the model's own ``forward`` gives for the text alone, as far as rounding goes. Quicker ways
    are taken where they are found to give the same (``shaping.reward_models.trial``), which is tried on the rows that
    come; the log says which are not.

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
        ConfigError: The model is wrapped, has more than one label, its head cannot be found, a bound is not positive,
            the mask token is beyond the vocabulary, or the score is to be read at what the model takes for padding.
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
        self.name = name or type(model).__name__
        check_is_model(model, self.name)
        self._head = scalar_head(model, self.name)
        self.model = model.eval().requires_grad_(False)
        text = model.config.get_text_config()
        # The library reads a text at its last token that is not padding, wherever else it ends.
        self._padding: int | None = getattr(text, "pad_token_id", None)
        if eos_token_id is not None and eos_token_id == self._padding:
            raise ConfigError(
                f"reward model {self.name} is to be read at token {eos_token_id}, which is its padding: it reads a "
                "text before that",
                "leave out eos_token_id (read_at_eos: false), or set pad_token_id in its config to another token",
            )
        self.layers = int(text.num_hidden_layers)
        self.mean, self.deviation, self.eos_token_id = mean, deviation, eos_token_id
        self.passes = BoundedPasses(model, max_tokens_per_forward)
        self.share_prefixes = share_prefixes
        self._mask_token = find_mask_token(model, mask_token_id, _usual_mask_tokens(model, eos_token_id), self.name)
        self._trials = Trials(model, self.name)
        self.added_tokens = 0 if eos_token_id is None else 1

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", **options: Any) -> CausalRewardModel:
        """Return the reward model saved in ``folder``; its config may hold ``score_mean`` and ``score_deviation``.

        Raises:
            ConfigError: Weights of it are not there, such as those of its head, or are there and would be left out.
        """
        model = load_reward_model(folder).to(device)
        mean, deviation = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_deviation", 1.0)
        return cls(model, float(mean), float(deviation), Path(folder).name, **options)

    @staticmethod
    def tokenizer(folder: str | Path) -> Any:
        """Return the tokenizer saved beside the reward model."""
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def identity(self) -> str:
        """Return a hash of the weights and of the scale: what an exported shape is bound to."""
        return weights_identity(self.model, self.mean, self.deviation)

    @cached_property
    def context(self) -> int | None:
        """Most tokens of a row; ``None`` where nothing limits them."""
        with refusing_failures(self.name):
            return Positions.of(self.model, self._own, self._padding).limit

    @cached_property
    def tried(self) -> Rollouts:
        """A few short rollouts, on which the ways to score were tried.

        Raises:
            ConfigError: The model gives one text two scores, or cannot score it.
        """
        rollouts = short_rollouts(self.model, self.eos_token_id)
        with refusing_failures(self.name):
            self.score_variants(Variants.prefixes(rollouts))
        return rollouts

    @cached_property
    def _found(self) -> Abilities:
        certain = {"sharing"} if self.share_prefixes else set()
        certain |= {"absent_mask"} if self._mask_token is not None else set()
        return find_abilities(self, certain)

    @torch.inference_mode()
    def score(self, variants: Variants) -> VariantScores:
        """Return the score of every variant; prompts and shared prefixes are forwarded once.

        Without end-of-sequence it is read at the last token that is not deleted or hidden.

        Raises:
            ConfigError: The model cannot take tokens away as the variants ask for.
            ShapeError: A variant has no token to read the score at, or is longer than the model's context.
        """
        check_absent(variants.absent, self.abilities, self.name)
        return self.score_variants(variants)

    @torch.inference_mode()
    def score_variants(self, variants: Variants) -> VariantScores:
        """Return the score of every variant, whatever the model's abilities are: these are found with it."""
        rollouts = variants.rollouts
        check_vocabulary(self.model, rollouts, self.name)
        words, places = self._words(variants)
        owner, mask = variants.owner.cpu(), rollouts.prompt_mask.cpu()
        prompt_tokens, tokens = mask.sum(dim=1)[owner], (words != NO_TOKEN).sum(dim=1)
        if places is not None:
            tokens = torch.cat([tokens[:, None], places + 1], dim=1).amax(dim=1)
            self._check_window(int((prompt_tokens + tokens).max()))
        self._check(prompt_tokens, tokens)
        tree = PrefixTree.of(rollouts.prompt_ids.cpu(), mask, owner, words, self.share_prefixes, places, self._padding)
        raw, forwarded = self._raw_scores(tree)
        return VariantScores(self._scale(raw)[tree.inverse.to(raw.device)], forwarded)

    @torch.inference_mode()
    def prefix_scores(self, rollouts: Rollouts) -> Tensor:
        """Return ``B x (T + 1)`` scores (R3HF, arXiv 2411.08302), from one forward pass where that is right."""
        rollouts = rollouts.to(self.model.device)
        found = self.prefixes_in_one_pass(rollouts)
        if found is None:
            scores = self.score_variants(Variants.prefixes(rollouts)).values
            found = scores.view(len(rollouts), rollouts.response_ids.shape[1] + 1)
        return found

    @torch.inference_mode()
    def prefixes_in_one_pass(self, rollouts: Rollouts) -> Tensor | None:
        """Return ``B x (T + 1)`` scores read along each response, or ``None`` where they are not those of prefixes."""
        self.model.eval()
        check_vocabulary(self.model, rollouts, self.name)
        self._check(rollouts.prompt_tokens, rollouts.response_tokens)
        # The first score is read before any response token.
        self._check(rollouts.prompt_tokens, torch.zeros_like(rollouts.prompt_tokens))

        def at(row: int) -> Tensor:
            """Return the ends of prefixes that a trial looks at."""
            tokens = int(rollouts.response_tokens[row])
            return torch.tensor(sorted({0, tokens // 2, tokens}))

        def alone(row: int) -> Tensor:
            """Return a row's scores there, read alone."""
            ids, first = one_row(rollouts, row).inputs["input_ids"], int(rollouts.prompt_tokens[row])
            return torch.cat([self.own_score(ids[:, : first + int(end)]) for end in at(row)])

        ways = self._ways("prefix scores", rollouts, lambda laid: self._along(rollouts, laid), (LEFT, RIGHT, SINGLE))
        lengths = (rollouts.prompt_tokens + rollouts.response_tokens).cpu()
        found = self._trials.first_right("prefix scores", ways, lengths, alone, at)
        return None if found is None else found[0]

    def _along(self, rollouts: Rollouts, laid: Laid) -> Tensor:
        """Return the scores along some responses, ``n x (T + 1)``: each read at the last token that is not padding."""
        given = rollouts.select(laid.rows)
        hidden = self.model.base_model(**laid.inputs).last_hidden_state
        before = laid.start + given.prompt_tokens - 1
        first = int(before.min())
        scores = self._scale(self._head(hidden[:, first:]).squeeze(-1))
        width = rollouts.response_ids.shape[1]
        ends = torch.minimum(torch.arange(width + 1, device=scores.device)[None], given.response_tokens[:, None])
        place = before[:, None] + ends
        if self._padding is not None:
            place = last_real(laid.inputs["input_ids"], laid.start, self._padding).gather(1, place)
        inside = place >= first
        if bool(inside.all()):
            return scores.gather(1, place - first)
        whole: Tensor = self._scale(self._head(hidden).squeeze(-1)).gather(1, place)
        return whole

    @torch.inference_mode()
    def response_attention(self, rollouts: Rollouts, layer: int = -1, heads: str = "mean") -> Tensor:
        """Return ``B x T`` attention as ABC uses it (arXiv 2402.00782): from the last token to the response.

        Raises:
            ConfigError: The model gives no map of the sequence for that layer.
            ShapeError: It attends to no token of a response.
        """
        read = self._as_read(rollouts.to(self.model.device))

        def of(laid: Laid) -> Tensor:
            """Return the attention of some rows as they are laid out: ``n x T``."""
            given = read.select(laid.rows)
            place = laid.start + self._read_place(given)
            row = attention_row(self.model, laid.inputs, place, layer, heads, self.layers)
            return row.gather(1, response_columns(laid, given)) * given.response_mask

        found = self._rows_right(f"attention of layer {layer} ({heads})", read, of)
        # A response that is nothing but padding is read before it begins.
        seen = (self._read_place(read) >= read.prompt_tokens)[:, None] & rollouts.response_mask.to(found.device)
        return share_of_response(found[:, : rollouts.response_ids.shape[1]], seen, self.name)

    @torch.inference_mode(False)
    def integrated_gradients(self, rollouts: Rollouts, absent: Tensor, steps: int) -> Tensor:
        """Return ``B x T`` integrated gradients of the score (Sundararajan et al., arXiv 1703.01365).

        The path leads from the vocabulary's mean embedding, in place of the tokens in ``absent`` (``B x T``), to
        the tokens themselves; a row sums to the score's change along it, up to the quadrature of ``steps`` points.
        """
        read, width = self._as_read(rollouts.to(self.model.device)), rollouts.response_ids.shape[1]
        absent = absent.to(self.model.device)

        def of(laid: Laid, points: int = steps) -> Tensor:
            """Return the gradients of some rows as they are laid out: ``n x T``."""
            given, ids = read.select(laid.rows), laid.inputs["input_ids"]
            columns = response_columns(laid, given)[:, :width]
            place = laid.start + self._read_place(given)
            replaced = torch.zeros_like(ids).scatter_add_(1, columns, absent[laid.rows].long()) > 0
            score = partial(self.score_embedded, inputs=laid.inputs, place=place)
            path = integrated_gradients(self.model.get_input_embeddings(), score, ids, replaced, points)
            return path.gather(1, columns) * given.response_mask[:, :width]

        return self._rows_right("gradients", read, of, partial(of, points=min(steps, TRIAL_POINTS)))

    def score_embedded(self, embedded: Tensor, inputs: dict[str, Tensor], place: Tensor) -> Tensor:
        """Return the score of rows given as embeddings (``n x L x d``), read at ``place`` (``n``)."""
        others = {name: value for name, value in inputs.items() if name != "input_ids"}
        hidden = self.model.base_model(inputs_embeds=embedded, **others).last_hidden_state
        return self._scale(self._head(hidden[torch.arange(len(hidden)), place]).squeeze(-1))

    @property
    def shares_work(self) -> bool:
        """Whether prompts and prefixes are really shared: tried on the model itself."""
        return bool(len(self.tried)) and not self._trials.refused("scores", SHARED)

    def own_score(self, ids: Tensor, **inputs: Any) -> Tensor:
        """Return what the model's own ``forward`` gives for one row of ids (``1 x L``), scaled: one value."""
        return self._scale(self._own(ids, **inputs))

    def _own(self, ids: Tensor, **inputs: Any) -> Tensor:
        found: Tensor = self.model(input_ids=ids, **inputs).logits
        return found.flatten()[:1]

    def _ways(
        self, what: str, rollouts: Rollouts, of: Values, names: Sequence[str], sample: Values | None = None
    ) -> Iterator[Way]:
        """Yield the ways to compute something for whole rows that were not refused, each from its layout."""
        most = self.passes.most_tokens
        layouts: dict[str, Callable[[], Iterable[Laid]]] = {
            LEFT: lambda: padded_left(rollouts, most),
            RIGHT: lambda: padded_right(rollouts, most),
            SINGLE: lambda: one_by_one(rollouts),
        }
        for name in names:
            if not self._trials.refused(what, name):
                yield Way.of_layout(name, list(layouts[name]()), of, len(rollouts), sample)

    def _rows_right(self, what: str, rollouts: Rollouts, of: Values, sample: Values | None = None) -> Tensor:
        """Return something of whole rows in the first layout that gives what each row alone gives.

        A trial looks at ``sample`` in its place.
        """
        self.model.eval()
        lengths = (rollouts.prompt_tokens + rollouts.response_tokens).cpu()
        ways, tried = self._ways(what, rollouts, of, (LEFT, RIGHT), sample), sample or of
        found = self._trials.first_right(what, ways, lengths, lambda row: tried(one_row(rollouts, row))[0])
        if found is not None:
            return found[0]
        return Way.of_layout(SINGLE, list(one_by_one(rollouts)), of, len(rollouts)).compute()

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

    def _raw_scores(self, tree: PrefixTree) -> tuple[Tensor, int]:
        """Return the head's output for every distinct row, and the tokens forwarded."""
        self.model.eval()
        if not len(tree.words):
            return torch.zeros(0, device=self.model.device), 0
        rows = TreeRows(self.model, self._head, self._own, tree, self.passes.most_tokens)
        what = "scores" if tree.places is None else "scores with hidden units"
        ways = (way for way in rows.ways() if not self._trials.refused("scores", way.name))
        found = self._trials.first_right(what, ways, rows.lengths, rows.alone)
        if found is not None:
            values, way = found
            return values.squeeze(1), sum(tokens for _, tokens in way.passes)
        if tree.places is not None:
            # Hidden tokens leave a trace, as in a recurrent state.
            check_absent("attention", frozenset(), self.name)
        each = [rows.alone(row) for row in range(len(rows.lengths))]
        return torch.cat(each).float(), int(rows.lengths.sum())

    def _check_window(self, longest: int) -> None:
        """Refuse to hide tokens behind a window of attention.

        Raises:
            ShapeError: A window ends within the ``longest`` row: hidden tokens take room in it.
        """
        try:
            check_window(self.model, longest)
        except UnsupportedAttention as error:
            raise ShapeError(
                f"absent = attention in reward model {self.name}: {error}",
                "set absent to delete or mask, or shorten the prompts or the responses",
            ) from error

    def _as_read(self, rollouts: Rollouts) -> Rollouts:
        """Return the rollouts as the head reads them: with end-of-sequence where it is read there."""
        check_vocabulary(self.model, rollouts, self.name)
        read = rollouts if self.eos_token_id is None else rollouts.ending_with(self.eos_token_id)
        self._check(read.prompt_tokens, read.response_tokens)
        return read

    def _read_place(self, given: Rollouts) -> Tensor:
        """Return which of its tokens each row is read at: ``n``, from 0."""
        ids, real = given.sequences()
        number = real.long().cumsum(dim=1) - 1
        counted = real if self._padding is None else real & (ids != self._padding)
        return torch.where(counted, number, 0).amax(dim=1)

    def _check(self, prompt_tokens: Tensor, response_tokens: Tensor) -> None:
        lengths = prompt_tokens + response_tokens
        if len(lengths) and int(lengths.min()) == 0:
            raise ShapeError(
                "a response without prompt has no token left to read a score at once its units are absent",
                "put a beginning-of-sequence token before it",
            )
        check_context(self.context, int(lengths.max()) if len(lengths) else 0, self.name)

    def _scale(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.mean) / self.deviation


def _usual_mask_tokens(model: PreTrainedModel, eos_token_id: int | None) -> list[int | None]:
    config = model.config.get_text_config()
    ended = getattr(config, "eos_token_id", None)
    ends = ended if isinstance(ended, list) else [ended]
    padding = getattr(config, "pad_token_id", None)
    padding = None if padding in [*ends, eos_token_id] else padding
    return [getattr(config, "mask_token_id", None), padding]
