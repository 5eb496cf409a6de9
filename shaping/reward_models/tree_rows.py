"""Scores of the rows of a prefix tree: with shared prefixes, several rows at once, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shaping.attention_implementation import attention_of
from shaping.prefix_tree import PrefixTree, TreePass
from shaping.reward_models.layouts import even_packs, packs
from shaping.reward_models.trial import Way
from shaping.tree_attention import NAME, TreeAttention, check_calls, check_window

SHARED, PADDED, EVEN = "with shared prefixes", "in padded passes", "in passes of rows of one length"


class TreeRows:
    """The distinct rows of a tree, and the ways to score them.

    Args:
        model: A causal sequence classifier.
        head: From hidden states to one value each.
        own: What the model's own ``forward`` gives for one row of ids, given masks and positions: one value.
        tree: The rows.
        most_tokens: Bound of one forward pass.

    Attributes:
        lengths: Tokens of each row; of a row with hidden tokens its last position and one: ``R``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        head: nn.Module,
        own: Callable[..., Tensor],
        tree: PrefixTree,
        most_tokens: int,
    ) -> None:
        self._model, self._head, self._own, self._tree, self._most = model, head, own, tree, most_tokens
        self._ids, self._tokens = tree.rows()
        self._positions = tree.row_positions()
        last = self._tokens if self._positions is None else self._positions.amax(dim=1) + 1
        self.lengths = last

    def ways(self) -> Iterator[Way]:
        """Yield the ways to score all rows, ``R x 1`` raw scores, quickest first."""
        cuts, every = self._tree.cuts(self._most), torch.arange(len(self._tokens))
        yield Way(SHARED, [(every[rows], tokens) for rows, tokens in cuts], lambda: self._shared(cuts))
        yield Way.packed(PADDED, packs(self._tokens, self._most), self._plain)
        yield Way.packed(EVEN, even_packs(self._tokens, self._most), self._plain, even=True)

    def alone(self, row: int) -> Tensor:
        """Return the model's own raw score of one row, its hidden tokens masked where they stand: one value."""
        ids = self._ids[row, : int(self._tokens[row])]
        if self._positions is None:
            return self._own(ids[None].to(self._model.device))
        places = self._positions[row, : len(ids)]
        whole = ids[:1].repeat(int(places[-1]) + 1)
        seen = torch.zeros_like(whole)
        whole[places], seen[places] = ids, 1
        inputs = {"attention_mask": seen[None], "position_ids": torch.arange(len(whole))[None]}
        on_device = {name: value.to(self._model.device) for name, value in inputs.items()}
        return self._own(whole[None].to(self._model.device), **on_device)

    def _shared(self, cuts: Sequence[tuple[slice, int]]) -> Tensor:
        return torch.cat([self._head(self._leaves(self._tree.one_pass(rows))).float() for rows, _ in cuts])

    def _leaves(self, part: TreePass) -> Tensor:
        """Return the hidden states at which the rows of a pass are read."""
        device = self._model.device
        tree = TreeAttention.of(part, device)
        check_window(self._model, tree.longest)
        with attention_of(self._model, NAME):
            output = self._model.base_model(
                input_ids=part.ids[None].to(device),
                position_ids=part.positions[None].to(device),
                use_cache=False,
                tree=tree,
            )
        check_calls(self._model, tree)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden[part.leaves.to(device)]

    def _plain(self, rows: Tensor, width: int) -> Tensor:
        hidden = self._model.base_model(**self._inputs(rows, width), use_cache=False).last_hidden_state
        place = self._tree.read[rows].to(hidden.device) - 1
        scores: Tensor = self._head(hidden[torch.arange(len(rows)), place])
        return scores

    def _inputs(self, rows: Tensor, width: int) -> dict[str, Any]:
        # Under causal attention padding on the right needs no mask.
        inputs = {"input_ids": self._ids[rows, :width]}
        if self._positions is not None:
            # Without a mask the library would take a gap in the positions for the start of another text.
            mask = torch.arange(width) < self._tokens[rows][:, None]
            inputs["position_ids"], inputs["attention_mask"] = self._positions[rows, :width], mask.long()
        return {name: value.to(self._model.device) for name, value in inputs.items()}
