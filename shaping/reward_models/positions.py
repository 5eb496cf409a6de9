"""Which positions a model has: seen on a short row, as configs tell it in many ways and some wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

# How configs call the most positions; -1, as in XLNet, means that there is no limit.
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_sequence_length", "seq_length")
# Long enough to tell counted positions from other small numbers.
ROW = 6


@dataclass(frozen=True)
class Positions:
    """What a model knows of places in a row.

    Attributes:
        limit: Most tokens of a row; ``None`` where nothing limits them.
        uncounted: A token that has no position, with all others counted from it on, as in RoBERTa; or ``None``.
    """

    limit: int | None
    uncounted: int | None = None

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        run: Callable[[Tensor], Any],
        padding: int | None,
        around: tuple[list[int], list[int]] = ([], []),
    ) -> Positions:
        """Return a model's positions.

        Args:
            model: The model.
            run: Computes one row of ids, ``1 x L``, in any way that the model is used.
            padding: The token that may have no position: the padding of the model's config.
            around: What is put before and after every text.
        """
        before, after = (torch.tensor([each], dtype=torch.long, device=model.device) for each in around)
        ids = torch.cat([before, plain_ids(model, ROW, padding), after], dim=1)
        tables, dynamic = _tables(run, ids), _dynamic_limit(model)
        if not tables:
            named = _named_limit(model)
            return cls(named if dynamic is None else dynamic if named is None else min(named, dynamic))
        limit = min(size - first for size, first in tables)
        if padding is None or not 0 <= padding < (vocabulary_size(model) or 0):
            return cls(limit)
        ids[0, ids.shape[1] // 2] = padding
        return cls(limit, None if len(_tables(run, ids)) == len(tables) else padding)


def vocabulary_size(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has embeddings for; ``None`` where it looks them up otherwise, as CANINE."""
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    size = getattr(table, "num_embeddings", None)
    if size is None:
        size = getattr(model.config.get_text_config(), "vocab_size", None)
    return int(size) if isinstance(size, int) else None


def plain_ids(model: PreTrainedModel, count: int, *avoided: int | None) -> Tensor:
    """Return ``1 x count`` ids, spread over the vocabulary, none of which the model's config names."""
    config = model.config.get_text_config()
    special = {number for number in _token_ids(model.config.to_dict()) | _token_ids(config.to_dict())}
    special |= {token for token in avoided if token is not None}
    size = vocabulary_size(model) or int(getattr(config, "vocab_size", 0) or 1000)
    free = [token for token in range(size) if token not in special] or list(range(size))
    generator = torch.Generator().manual_seed(count)
    chosen = torch.randint(len(free), (1, count), generator=generator)
    return torch.tensor(free)[chosen].to(model.device)


def tables_of_tokens(run: Callable[[], Any], ids: Tensor) -> set[int]:
    """Return the tables in which exactly these ids are looked up while ``run`` computes: their addresses."""
    with _Lookups() as lookups:
        run()
    wanted = ids.flatten().tolist()
    return {place for asked, _, place in lookups.seen if asked.flatten().tolist() == wanted}


def _token_ids(config: dict[Any, Any]) -> set[int]:
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _token_ids(value)
        elif str(name).endswith(("token_id", "token_index", "token_ids")):
            values = value if isinstance(value, list) else [value]
            found |= {each for each in values if isinstance(each, int) and not isinstance(each, bool)}
    return found


def _named_limit(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    found = [getattr(config, name, None) for name in LIMITS]
    return next((each for each in found if isinstance(each, int) and not isinstance(each, bool) and each > 0), None)


def _dynamic_limit(model: PreTrainedModel) -> int | None:
    """Return up to which length rotary positions that grow with the rows do not depend on earlier, longer rows."""
    limits = [
        int(module.original_max_seq_len)
        for module in model.modules()
        if "dynamic" in str(getattr(module, "rope_type", "")) and hasattr(module, "original_max_seq_len")
    ]
    return min(limits, default=None)


def _tables(run: Callable[[Tensor], Any], ids: Tensor) -> list[tuple[int, int]]:
    """Return the size of each table whose entries were looked up one behind the other, and the first one's number."""
    with _Lookups() as lookups:
        run(ids)
    found = []
    for asked, size, _ in lookups.seen:
        numbers = asked.flatten().tolist()
        if len(numbers) == ids.shape[1] and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            found.append((size, numbers[0]))
    return found


class _Lookups(TorchFunctionMode):
    """Remembers what is looked up in tables of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.embedding:
            given = {**dict(zip(("input", "weight"), args, strict=False)), **(kwargs or {})}
            table = given["weight"]
            self.seen.append((given["input"].detach().cpu(), int(table.shape[0]), table.data_ptr()))
        return func(*args, **(kwargs or {}))
