"""Which attention a model computes with. The one file that knows a private name of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

# Each private name that is used below: why, and what would replace it.
PRIVATE_NAMES = {
    "_attn_implementation": "set_attn_implementation has no counterpart that tells which one is set; a public getter",
}


def implementation_of(model: PreTrainedModel) -> str:
    """Return the name of the attention implementation that a model uses."""
    name: str = model.config._attn_implementation
    return name


@contextmanager
def attention_of(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run with another attention implementation, then with the old one again."""
    before = implementation_of(model)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
