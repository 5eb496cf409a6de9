"""Attention along the paths of a prefix tree, inside any model that takes its attention from the library's registry.

A model keeps its own layers; only its attention is replaced for the length of a call. Queries are cut into blocks
of neighbouring nodes. All ancestors of a block's nodes that stand outside the block are ancestors of its first
node, so a block reads one short list of keys: the prompt, the path to its first node, and itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from shaping.prefix_tree import TreePass

NAME = "shapetune_tree"
# Large enough that a block's own list of keys is cheap beside its work, small enough that few keys are masked.
BLOCK = 32
# Arguments by which a model asks for attention that this file does not compute.
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "head_mask", "position_bias")


class UnsupportedAttention(Exception):
    """The model wants a kind of attention that the tree does not have."""


@dataclass(frozen=True)
class BlockSlice:
    """Some blocks of queries: nodes ``n x C``, keys ``n x K``, and which keys each query sees, ``n x 1 x C x K``."""

    queries: Tensor
    keys: Tensor
    visible: Tensor


@dataclass(frozen=True)
class TreeAttention:
    """What the attention function needs to know of a pass.

    Attributes:
        slices: Blocks in order, in portions whose gathered keys are no more than the pass has nodes.
        place: Where each node's result stands among all queries of all blocks: ``L``.
        longest: One more than the last position of any node: tokens of the longest path, hidden ones included.
        calls: The attention layers that have used it.
    """

    slices: tuple[BlockSlice, ...]
    place: Tensor
    longest: int
    calls: list[torch.nn.Module] = field(default_factory=list)

    @classmethod
    def of(cls, tree: TreePass, device: torch.device, block: int = BLOCK) -> TreeAttention:
        """Return the blocks of a pass, on the model's device."""
        sizes = torch.cat([tree.opens[1:], tree.opens.new_full((1,), len(tree.ids))]) - tree.opens
        blocks = (sizes + block - 1) // block
        owner = torch.arange(len(blocks)).repeat_interleave(blocks)
        number = torch.arange(len(owner)) - (blocks.cumsum(0) - blocks)[owner]
        start = tree.opens[owner] + number * block
        stop = torch.minimum(start + block, (tree.opens + sizes)[owner])
        queries = start[:, None] + torch.arange(block)
        real = queries < stop[:, None]
        # The last block's empty places repeat its last node: a softmax over nothing would be NaN.
        queries = torch.where(real, queries, stop[:, None] - 1)
        place = torch.empty(len(tree.ids), dtype=torch.long)
        place[queries[real]] = torch.nonzero(real.flatten()).squeeze(1)
        keys, there = _keys(tree, owner, start, queries, real)
        portion = max(1, len(tree.ids) // keys.shape[1])
        slices = [
            _slice(tree, queries[part], keys[part], there[part], device)
            for part in (slice(i, i + portion) for i in range(0, len(queries), portion))
        ]
        return cls(tuple(slices), place.to(device), int(tree.positions.max()) + 1)


def _keys(tree: TreePass, owner: Tensor, start: Tensor, queries: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return each block's keys (``n x K``) and which of them are real: prompt, path, then the block itself."""
    prompt_tokens = tree.prompt_tokens[owner]
    column = torch.arange(int(prompt_tokens.max()))
    prompt = tree.opens[owner][:, None] + column
    in_prompt = (column < prompt_tokens[:, None]) & (prompt < start[:, None])
    depth = tree.depths[start] - prompt_tokens
    path = tree.paths[tree.row_of[start], : max(0, int(depth.max()))]
    on_path = torch.arange(path.shape[1]) < depth[:, None]
    there = torch.cat([in_prompt, on_path, real], dim=1)
    return torch.where(there, torch.cat([prompt, path, queries], dim=1), 0), there


def _slice(tree: TreePass, queries: Tensor, keys: Tensor, there: Tensor, device: torch.device) -> BlockSlice:
    before = keys[:, None, :] <= queries[:, :, None]
    inside = queries[:, :, None] < tree.ends[keys][:, None, :]
    visible = there[:, None, :] & before & inside
    return BlockSlice(queries.to(device), keys.to(device), visible[:, None].to(device))


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeAttention | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention of one flat row, ``1 x L x heads x D``, as the library's attention interface asks.

    Args:
        module: The model's attention layer.
        query: ``1 x heads x L x D``.
        key: ``1 x key_heads x L x D``.
        value: As ``key``.
        attention_mask: Never used: the tree says what a node sees.
        scaling: Factor of the scores.
        dropout: Never used: reward models do not train here.
        tree: The pass.
        **options: Whatever else the model passes.

    Raises:
        UnsupportedAttention: The model asks for more than plain attention.
    """
    if tree is None:
        raise UnsupportedAttention("the model does not hand arguments down to its attention")
    for name in UNSUPPORTED:
        if options.get(name) is not None and not (name == "sliding_window" and options[name] >= tree.longest):
            raise UnsupportedAttention(f"its attention has {name.replace('_', ' ')}")
    tree.calls.append(module)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    shared_heads = q.shape[1] != k.shape[1]
    if shared_heads and q.is_cuda:
        # No fused kernel on the GPU takes both a mask and shared heads.
        k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for states in (k, v))
        shared_heads = False
    found = [
        scaled_dot_product_attention(
            _rows(q, part.queries),
            _rows(k, part.keys),
            _rows(v, part.keys),
            attn_mask=part.visible,
            scale=scaling,
            enable_gqa=shared_heads,
        ).transpose(1, 2)
        for part in tree.slices
    ]
    flat = torch.cat([part.flatten(0, 1) for part in found]) if len(found) > 1 else found[0].flatten(0, 1)
    return flat.index_select(0, tree.place)[None], None


def _rows(states: Tensor, places: Tensor) -> Tensor:
    """Return the ``n x C`` places of ``L x heads x D`` states as ``n x heads x C x D``.

    On a CPU ``index_select`` copies whole rows, where indexing by a matrix goes element by element.
    """
    picked = states.index_select(0, places.flatten())
    return picked.view(*places.shape, *states.shape[1:]).transpose(1, 2)


AttentionInterface.register(NAME, attend)


def check_calls(model: PreTrainedModel, tree: TreeAttention) -> None:
    """Refuse a model some of whose layers mix tokens in another way than by the attention of this file.

    Raises:
        UnsupportedAttention: Fewer layers have used the tree than the model has.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    if len(tree.calls) < layers:
        raise UnsupportedAttention(f"{layers - len(tree.calls)} of its {layers} layers have another kind of attention")


def check_window(model: PreTrainedModel, longest: int) -> None:
    """Refuse rows beyond a window: some models have it in their mask alone, which the tree does not use.

    Raises:
        UnsupportedAttention: Some layer sees fewer tokens than the ``longest`` row has.
    """
    config = model.config.get_text_config()
    windowed = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ["unknown"])
    names = ("sliding_window", "attention_chunk_size", "window_size") if windowed else ()
    sizes = [getattr(config, name, None) for name in names]
    window = min((size for size in sizes if isinstance(size, int) and size), default=longest)
    if window < longest:
        raise UnsupportedAttention(f"a row of {longest} tokens is longer than its attention window of {window}")
