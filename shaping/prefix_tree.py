"""Rows of tokens as prefix trees laid out flat, so that a model computes every shared prefix once.

Below each distinct prompt the rows form a tree; a node is one token after one prefix. Nodes stand in depth-first
order, children by token id, so the descendants of node ``j`` are the nodes ``j + 1 .. ends[j] - 1`` and one rule
says what a token may attend to, prompts included:

    node i attends to node j   when   j <= i < ends[j]

Where tokens are hidden and all others stay in their places, a node is one token in one place after one prefix.

A long layout is cut between rows into passes of a bounded number of tokens; a pass that starts inside a tree
repeats that tree's prompt and the path to its first row.

Notation: ``L`` nodes of a pass, ``R`` rows, ``W`` the longest row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shaping.variants import NO_TOKEN


@dataclass(frozen=True)
class TreePass:
    """The nodes of one forward pass.

    Attributes:
        ids: Token of each node: ``L``.
        depths: How many nodes it follows, its prompt's included: ``L``.
        positions: Its position to the model, the same unless tokens before it are hidden: ``L``.
        ends: One past its last descendant: ``L``.
        opens: First node of each tree: one for each prompt of the pass.
        paths: ``R x W`` node of each row at each depth, meaningless beyond the row's end.
        rows: Which distinct rows these are.
        row_of: For each node of a row its row in this pass, for a prompt's nodes the first row below: ``L``.
        prompt_tokens: Length of each tree's prompt.
        leaves: The node at which each row is read, its last one unless that is padding: ``R``.
    """

    ids: Tensor
    depths: Tensor
    positions: Tensor
    ends: Tensor
    opens: Tensor
    paths: Tensor
    rows: slice
    row_of: Tensor
    prompt_tokens: Tensor
    leaves: Tensor


@dataclass(frozen=True)
class PrefixTree:
    """Distinct rows in depth-first order.

    Attributes:
        prompts: Distinct prompts, shortest first: ``G x P`` ids, padded on the right.
        prompt_tokens: Their lengths: ``G``.
        prompt: The prompt of each distinct row: ``R``.
        words: Distinct rows: ``R x W``, ``NO_TOKEN`` behind the last token.
        lengths: Their lengths: ``R``.
        shared: How many of its first tokens a row shares with the row before it: ``R``.
        inverse: The distinct row of each given row.
        read: How many of its tokens, its prompt's included, a row has up to where its score is read: ``R``.
        places: Where behind its prompt each word stands, not only how deep, if rows have gaps: ``R x W``.
    """

    prompts: Tensor
    prompt_tokens: Tensor
    prompt: Tensor
    words: Tensor
    lengths: Tensor
    shared: Tensor
    inverse: Tensor
    read: Tensor
    places: Tensor | None = None

    @classmethod
    def of(
        cls,
        prompts: Tensor,
        prompt_mask: Tensor,
        owner: Tensor,
        words: Tensor,
        share: bool = True,
        places: Tensor | None = None,
        padding: int | None = None,
    ) -> PrefixTree:
        """Return the tree of rows ``words`` (``n x W``) below the prompts (``B x P``, masked) of their owners.

        Args:
            prompts: Ids.
            prompt_mask: True on real tokens.
            owner: The prompt of each row: ``n``.
            words: Rows.
            share: False gives every row tokens of its own: packed, but not shared.
            places: Where each word stands, rising along a row: tokens are alike only where these are too.
            padding: A row is read at the last of its tokens that is not this one, as the library reads it.
        """
        prompts, prompt_tokens, group = _distinct_prompts(prompts, prompt_mask)
        if places is not None:
            # Token and place as one number, so that all below compares both.
            tokens = max(1, int(words.max()) + 1) if words.numel() else 1
            words = torch.where(words == NO_TOKEN, NO_TOKEN, places.long() * tokens + words)
        key = torch.cat([group[owner][:, None], words], dim=1)
        distinct, inverse = torch.unique(key, dim=0, return_inverse=True)
        prompt, words = distinct[:, 0], distinct[:, 1:]
        shared = torch.zeros_like(prompt)
        if share:
            # Padding is smaller than every id: a row stands before the rows that go on from it.
            alike = (words[1:] == words[:-1]) & (prompt[1:] == prompt[:-1])[:, None]
            shared[1:] = alike.long().cumprod(dim=1).sum(dim=1)
        real = words != NO_TOKEN
        if places is not None:
            words, places = torch.where(real, words % tokens, NO_TOKEN), torch.where(real, words // tokens, NO_TOKEN)
        lengths = prompt_tokens[prompt] + real.sum(dim=1)
        tree = cls(prompts, prompt_tokens, prompt, words, real.sum(dim=1), shared, inverse, lengths, places)
        return tree if padding is None else replace(tree, read=_read_at(*tree.rows(), padding))

    def passes(self, max_tokens: int) -> Iterator[TreePass]:
        """Yield passes of at most ``max_tokens`` nodes, or of one row and its prompt where that is longer."""
        for rows, _ in self.cuts(max_tokens):
            yield self.one_pass(rows)

    def cuts(self, max_tokens: int) -> list[tuple[slice, int]]:
        """Return the rows of each of those passes, and its nodes."""
        found: list[tuple[slice, int]] = []
        opens = _changes(self.prompt)
        trees = torch.nonzero(opens).squeeze(1)
        cost = self.lengths - self.shared + torch.where(opens, self.prompt_tokens[self.prompt], 0)
        total, start = cost.cumsum(0), 0
        while start < len(self.words):
            before = total[start] - self.prompt_tokens[self.prompt[start]] - self.lengths[start]
            end = max(start + 1, int(torch.searchsorted(total, before + max_tokens, right=True)))
            if end < len(self.words) and not opens[end]:
                tree = int(trees[torch.searchsorted(trees, end, right=True) - 1])
                # A tree that fits a pass of its own is not cut.
                end = tree if tree > start else end
            found.append((slice(start, end), int(total[end - 1]) - int(before)))
            start = end
        return found

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return every distinct row after its prompt, padded on the right with id 0, and its length."""
        return self._joined(self.prompts, self.words), self.prompt_tokens[self.prompt] + self.lengths

    def row_positions(self) -> Tensor | None:
        """Return the position of every token of ``rows``, 0 on padding; ``None`` where they only count."""
        if self.places is None:
            return None
        of_prompts = torch.arange(self.prompts.shape[1]).expand_as(self.prompts)
        return self._joined(of_prompts, self.prompt_tokens[self.prompt][:, None] + self.places)

    def _joined(self, of_prompts: Tensor, of_words: Tensor) -> Tensor:
        """Return values of the prompts' tokens (``G x P``) and of the words (``R x W``) as rows, padded with 0."""
        prompt_real = torch.arange(self.prompts.shape[1]) < self.prompt_tokens[self.prompt][:, None]
        real = torch.cat([prompt_real, self.words != NO_TOKEN], dim=1)
        left = torch.argsort((~real).to(torch.int8), dim=1, stable=True)
        return torch.where(real, torch.cat([of_prompts[self.prompt], of_words], dim=1), 0).gather(1, left)

    def one_pass(self, rows: slice) -> TreePass:
        """Return the nodes of some rows and of their prompts."""
        prompt, words, lengths = self.prompt[rows], self.words[rows], self.lengths[rows]
        shared = torch.cat([torch.zeros(1, dtype=torch.long), self.shared[rows][1:]])
        opens = _changes(prompt)
        prompt_tokens = self.prompt_tokens[prompt]
        ahead = torch.where(opens, prompt_tokens, 0)
        added = lengths - shared
        first = (ahead + added).cumsum(0) - added
        size, depth = int(first[-1] + added[-1]), torch.arange(words.shape[1])
        is_new = (depth >= shared[:, None]) & (depth < lengths[:, None])
        node = first[:, None] + depth - shared[:, None]
        # The node of a row at a depth was made by the last row that had a token of its own there.
        paths = torch.where(is_new, node, 0).cummax(dim=0).values
        ids, ends, depths, row_of = (torch.empty(size, dtype=torch.long) for _ in range(4))
        made = node[is_new]
        ids[made] = words[is_new]
        ends[made] = _ends(first - ahead, shared, size, words.shape[1])[is_new]
        depths[made] = (prompt_tokens[:, None] + depth)[is_new]
        row_of[made] = torch.arange(len(words))[:, None].expand_as(words)[is_new]
        tree_rows = torch.nonzero(opens).squeeze(1)
        starts = (first - ahead)[tree_rows]
        self._lay_prompts(prompt[tree_rows], starts, tree_rows, ids, ends, depths, row_of)
        positions = depths
        if self.places is not None:
            positions = depths.clone()
            positions[made] = (prompt_tokens[:, None] + self.places[rows])[is_new]
        in_words, read = self.read[rows] - prompt_tokens, self.read[rows]
        # A row without tokens, or with nothing but padding, is read in its prompt.
        leaves = starts[opens.cumsum(0) - 1] + read - 1
        if words.shape[1]:
            deep = paths.gather(1, (in_words - 1).clamp(min=0)[:, None]).squeeze(1)
            leaves = torch.where(in_words > 0, deep, leaves)
        return TreePass(ids, depths, positions, ends, starts, paths, rows, row_of, prompt_tokens[tree_rows], leaves)

    def _lay_prompts(
        self, prompt: Tensor, starts: Tensor, rows: Tensor, ids: Tensor, ends: Tensor, depths: Tensor, row_of: Tensor
    ) -> None:
        """Write the nodes of the prompts into the pass's own tensors."""
        column = torch.arange(self.prompts.shape[1])
        real = column < self.prompt_tokens[prompt][:, None]
        place = (starts[:, None] + column)[real]
        ids[place] = self.prompts[prompt][real]
        depths[place] = column.expand_as(real)[real]
        ends[place] = torch.cat([starts[1:], starts.new_full((1,), len(ids))])[:, None].expand_as(real)[real]
        row_of[place] = rows[:, None].expand_as(real)[real]


def _distinct_prompts(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return distinct prompts, shortest first and padded on the right, their lengths, and each row's prompt."""
    lengths = mask.sum(dim=1)
    left = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)
    packed = torch.where(mask, ids, 0).gather(1, left)
    distinct, group = torch.unique(torch.cat([lengths[:, None], packed], dim=1), dim=0, return_inverse=True)
    return distinct[:, 1:], distinct[:, 0], group


def _read_at(ids: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """Return how many tokens each row (``R x L``) has up to its last one that is not padding; at least one."""
    column = torch.arange(ids.shape[1])
    real = (column < lengths[:, None]) & (ids != padding)
    return (torch.where(real, column, 0).amax(dim=1) + 1) if ids.shape[1] else lengths


def _changes(values: Tensor) -> Tensor:
    """Return where a sequence takes a new value; its first entry does."""
    first = torch.ones(1, dtype=torch.bool)
    return torch.cat([first, values[1:] != values[:-1]]) if len(values) else first[:0]


def _ends(starts: Tensor, shared: Tensor, size: int, width: int) -> Tensor:
    """Return for each row and depth where the first later row begins that no longer shares the token there."""
    leaves_it = torch.where(shared[:, None] <= torch.arange(width), starts[:, None], size)
    later = torch.cat([leaves_it[1:], leaves_it.new_full((1, width), size)])
    return later.flip(0).cummin(dim=0).values.flip(0)
