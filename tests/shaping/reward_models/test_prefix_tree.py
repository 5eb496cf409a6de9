"""The tree against plain python sets, and the attention's blocks against the tree's rule written out."""

from dataclasses import dataclass
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from shaping.prefix_tree import PrefixTree
from shaping.tree_attention import BLOCK, TreeAttention
from shaping.variants import NO_TOKEN, with_last_token


@dataclass
class Forest:
    """Rows below prompts, as lists."""

    prompts: list[list[int]]
    rows: list[tuple[int, list[int]]]

    def tree(self, share: bool = True, places: torch.Tensor | None = None) -> PrefixTree:
        width = max(len(prompt) for prompt in self.prompts)
        longest = max(len(row) for _, row in self.rows)
        # 9 on padding: a token that would show.
        prompts = torch.tensor([[9] * (width - len(prompt)) + prompt for prompt in self.prompts])
        mask = torch.tensor([[place >= width - len(prompt) for place in range(width)] for prompt in self.prompts])
        words = torch.tensor([row + [NO_TOKEN] * (longest - len(row)) for _, row in self.rows]).view(
            len(self.rows), longest
        )
        owner = torch.tensor([owner for owner, _ in self.rows])
        return PrefixTree.of(prompts.long(), mask.bool(), owner, words.long(), share, places)

    def texts(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [(tuple(self.prompts[owner]), tuple(row)) for owner, row in self.rows]


@st.composite
def forests(draw, longest_prompt=4, longest_row=6, most_rows=14):
    """Return rows of few tokens, so that prefixes and whole prompts are often alike."""
    token = st.integers(0, 2)
    prompts = draw(st.lists(st.lists(token, min_size=0, max_size=longest_prompt), min_size=1, max_size=4))
    row = st.tuples(st.integers(0, len(prompts) - 1), st.lists(token, max_size=longest_row))
    rows = draw(st.lists(row, min_size=1, max_size=most_rows))
    rows = [(owner, words) if prompts[owner] or words else (owner, [1]) for owner, words in rows]
    return Forest(prompts, rows)


def text_of(tree, row):
    prompt = tree.prompts[tree.prompt[row]][: int(tree.prompt_tokens[tree.prompt[row]])]
    return tuple(prompt.tolist()), tuple(token for token in tree.words[row].tolist() if token != NO_TOKEN)


def expected_nodes(texts):
    """Return every node there may be: a prompt's own tokens, and one for each distinct prefix below it."""
    prompts, rows = {prompt for prompt, _ in texts}, set(texts)
    of_prompts = {(prompt, prompt[: end + 1], ()) for prompt in prompts for end in range(len(prompt))}
    of_rows = {(prompt, prompt, row[: end + 1]) for prompt, row in rows for end in range(len(row))}
    return of_prompts | of_rows


def visible(ends, node):
    """Return what the rule lets a node see: itself and its ancestors."""
    return [other for other in range(node + 1) if node < ends[other]]


def tree_of(opens, node):
    return sum(start <= node for start in opens) - 1


def prompts_of_pass(tree, part):
    """Return the prompt of each tree of a pass, in order."""
    texts = [text_of(tree, row)[0] for row in range(part.rows.start, part.rows.stop)]
    return [text for place, text in enumerate(texts) if place == 0 or text != texts[place - 1]]


def assert_pass_is_right(tree, part):
    texts = [text_of(tree, row) for row in range(part.rows.start, part.rows.stop)]
    ids, ends, opens = part.ids.tolist(), part.ends.tolist(), part.opens.tolist()
    prompts = prompts_of_pass(tree, part)
    assert part.prompt_tokens.tolist() == [len(prompt) for prompt in prompts]
    found = []
    for node in range(len(ids)):
        seen = visible(ends, node)
        prompt, tokens = prompts[tree_of(opens, node)], tuple(ids[place] for place in seen)
        assert part.positions.tolist()[node] == len(seen) - 1
        assert seen[0] >= opens[tree_of(opens, node)]
        found.append((prompt, tokens[: len(prompt)], tokens[len(prompt) :]))
    expected = expected_nodes(texts)
    assert len(found) == len(expected)
    assert set(found) == expected
    for (prompt, row), leaf in zip(texts, part.leaves.tolist(), strict=True):
        assert found[leaf] == (prompt, prompt, row)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(forest=forests(), max_tokens=st.integers(1, 60))
def test_every_node_sees_exactly_its_prompt_and_its_prefix(forest, max_tokens):
    tree = forest.tree()
    for part in tree.passes(max_tokens):
        assert_pass_is_right(tree, part)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(forest=forests())
def test_one_pass_has_as_many_nodes_as_there_are_distinct_prefixes(forest):
    (part,) = forest.tree().passes(10_000)
    assert len(part.ids) == len(expected_nodes(forest.texts()))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(forest=forests(), max_tokens=st.integers(1, 60), share=st.booleans())
def test_passes_take_every_row_once_and_keep_to_the_limit(forest, max_tokens, share):
    tree = forest.tree(share)
    assert [text_of(tree, row) for row in tree.inverse.tolist()] == forest.texts()
    assert len(set(forest.texts())) == len(tree.words)
    passes = list(tree.passes(max_tokens))
    for part in passes:
        rows = part.rows.stop - part.rows.start
        assert len(part.ids) <= max_tokens or rows == 1
    covered = [row for part in passes for row in range(part.rows.start, part.rows.stop)]
    assert covered == list(range(len(tree.words)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(forest=forests(), max_tokens=st.integers(1, 60))
def test_no_pass_could_have_taken_the_next_row_too_unless_it_keeps_a_tree_whole(forest, max_tokens):
    tree = forest.tree()
    texts = [text_of(tree, row) for row in range(len(tree.words))]
    for part, following in pairwise(tree.passes(max_tokens)):
        with_next = expected_nodes(texts[part.rows.start : part.rows.stop + 1])
        same_tree = [
            row for row in range(following.rows.start, len(texts)) if texts[row][0] == texts[part.rows.stop][0]
        ]
        whole_tree = expected_nodes([texts[row] for row in same_tree])
        assert len(with_next) > max_tokens or (
            texts[part.rows.stop - 1][0] != texts[part.rows.stop][0] and len(part.ids) + len(whole_tree) > max_tokens
        )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(forest=forests(), max_tokens=st.integers(1, 60))
def test_only_a_tree_that_opens_its_pass_is_cut(forest, max_tokens):
    tree = forest.tree()
    for part, following in pairwise(tree.passes(max_tokens)):
        if text_of(tree, part.rows.stop - 1)[0] == text_of(tree, following.rows.start)[0]:
            assert len(part.opens) == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(forest=forests(), max_tokens=st.integers(1, 60))
def test_without_sharing_every_row_has_nodes_of_its_own(forest, max_tokens):
    tree = forest.tree(share=False)
    for part in tree.passes(max_tokens):
        texts = [text_of(tree, row) for row in range(part.rows.start, part.rows.stop)]
        own = sum(len(row) for _, row in texts) + sum(len(prompt) for prompt in prompts_of_pass(tree, part))
        assert len(part.ids) == own
        ids, ends = part.ids.tolist(), part.ends.tolist()
        for (prompt, row), leaf in zip(texts, part.leaves.tolist(), strict=True):
            assert tuple(ids[place] for place in visible(ends, leaf)) == prompt + row


@settings(max_examples=100, deadline=None, derandomize=True)
@given(forest=forests())
def test_rows_are_prompt_and_words_padded_on_the_right(forest):
    ids, lengths = forest.tree().rows()
    found = [tuple(row[:length].tolist()) for row, length in zip(ids, lengths.tolist(), strict=True)]
    expected = [prompt + row for prompt, row in dict.fromkeys(forest.texts())]
    assert sorted(found) == sorted(expected)


def with_gaps(forest, seed, share=True):
    """Return the tree of rows some of whose tokens are hidden, and the rows as ``(token, place)``."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for owner, row in forest.rows:
        hidden = torch.randint(0, 2, (len(row),), generator=generator).cumsum(0).tolist()
        placed = [(token, depth + before) for depth, (token, before) in enumerate(zip(row, hidden, strict=True))]
        rows.append((tuple(forest.prompts[owner]), tuple(placed)))
    longest = max(len(row) for _, row in rows)
    places = [[place for _, place in row] + [NO_TOKEN] * (longest - len(row)) for _, row in rows]
    return forest.tree(share, torch.tensor(places).view(len(rows), longest).long()), rows


@settings(max_examples=100, deadline=None, derandomize=True)
@given(forest=forests(), seed=st.integers(0, 2**20), max_tokens=st.integers(1, 60), share=st.booleans())
def test_with_gaps_a_row_is_its_tokens_in_their_places(forest, seed, max_tokens, share):
    tree, expected = with_gaps(forest, seed, share)
    found = []
    for part in tree.passes(max_tokens):
        ids, positions, ends = part.ids.tolist(), part.positions.tolist(), part.ends.tolist()
        prompts = prompts_of_pass(tree, part)
        for leaf in part.leaves.tolist():
            prompt, seen = prompts[tree_of(part.opens.tolist(), leaf)], visible(ends, leaf)
            assert [positions[node] for node in seen[: len(prompt)]] == list(range(len(prompt)))
            row = [(ids[node], positions[node] - len(prompt)) for node in seen[len(prompt) :]]
            found.append((prompt, tuple(row)))
        assert_blocks_show_the_tree(part, 3)
    assert [found[row] for row in tree.inverse.tolist()] == expected
    (ids, lengths), positions = tree.rows(), tree.row_positions()
    for (prompt, row), number in zip(expected, tree.inverse.tolist(), strict=True):
        length = int(lengths[number])
        assert ids[number, :length].tolist() == [*prompt, *(token for token, _ in row)]
        assert positions[number, :length].tolist() == [*range(len(prompt)), *(len(prompt) + place for _, place in row)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(forest=forests(), seed=st.integers(0, 2**20))
def test_with_gaps_only_tokens_in_the_same_place_are_shared(forest, seed):
    tree, rows = with_gaps(forest, seed)
    (part,) = tree.passes(10_000)
    assert len(part.ids) == len(expected_nodes(rows))


def assert_blocks_show_the_tree(part, block):
    attention = TreeAttention.of(part, torch.device("cpu"), block)
    ends, seen = part.ends.tolist(), {}
    order = [query for part_ in attention.slices for query in part_.queries.flatten().tolist()]
    for block_slice in attention.slices:
        assert block_slice.queries.shape[1] == block
        rows = zip(block_slice.queries, block_slice.keys, block_slice.visible[:, 0], strict=True)
        for queries, keys, mask in rows:
            for query, allowed in zip(queries.tolist(), mask, strict=True):
                # A list and not a set: a key that is there twice would count twice.
                keys_seen = sorted(keys[allowed].tolist())
                assert keys_seen == visible(ends, query)
                seen[query] = keys_seen
    assert len(seen) == len(part.ids)
    assert [order[place] for place in attention.place.tolist()] == list(range(len(part.ids)))
    assert attention.longest == 1 + max(part.positions.tolist())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(forest=forests(), max_tokens=st.integers(1, 60), block=st.sampled_from([1, 2, 3, 5, BLOCK]))
def test_blocks_show_each_query_exactly_what_the_tree_lets_it_see(forest, max_tokens, block):
    for part in forest.tree().passes(max_tokens):
        assert_blocks_show_the_tree(part, block)


@pytest.mark.parametrize("prompt_tokens", [0, 1, 63, 64, 65, 128, 150])
@pytest.mark.parametrize("row_tokens", [1, 63, 64, 65, 128])
def test_blocks_show_the_tree_where_prompts_and_paths_cross_them(prompt_tokens, row_tokens):
    generator = torch.Generator().manual_seed(prompt_tokens * 1000 + row_tokens)
    base = torch.randint(0, 50, (row_tokens,), generator=generator).tolist()
    # Rows that leave the first one at every eighth token: paths of many lengths reach into every block.
    rows = [(0, base)] + [(0, [*base[:cut], 60 + cut % 7, *base[cut + 2 :]]) for cut in range(0, row_tokens, 8)]
    prompt = torch.randint(0, 50, (prompt_tokens,), generator=generator).tolist()
    forest = Forest([prompt, [*prompt, 3]], [*rows, (1, base), (1, base[: row_tokens // 2])])
    for max_tokens in (10_000, 300):
        for part in forest.tree().passes(max_tokens):
            assert_blocks_show_the_tree(part, BLOCK)


def test_gathered_keys_are_bounded_by_the_nodes_of_the_pass():
    generator = torch.Generator().manual_seed(0)
    rows = [(0, torch.randint(0, 3, (20,), generator=generator).tolist()) for _ in range(200)]
    (part,) = Forest([[1] * 100], rows).tree().passes(100_000)
    slices = TreeAttention.of(part, torch.device("cpu")).slices
    assert len(slices) > 1
    assert max(each.keys.numel() for each in slices) <= max(len(part.ids), slices[0].keys.shape[1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=8))
def test_the_last_token_is_put_behind_every_row_that_does_not_end_with_it(rows):
    width = max(len(row) for row in rows)
    words = torch.tensor([row + [NO_TOKEN] * (width - len(row)) for row in rows]).view(len(rows), width).long()
    found = [[token for token in row if token != NO_TOKEN] for row in with_last_token(words, 2).tolist()]
    assert found == [row if row[-1:] == [2] else [*row, 2] for row in rows]
