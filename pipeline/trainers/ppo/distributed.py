"""The processes that train one policy together, one a device: heavy work is split by rows, its results are shared.

Everything light (rewards, advantages, checks, the optimizer step) is done by every process on the whole batch, so
that one process and many run the same code and reach the same parameters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor, nn

from shaping.errors import ConfigError
from shaping.rollouts import Rollouts


class Distributed:
    """This process among those that ``accelerate launch`` or ``torchrun`` started; usually the only one.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.

    Attributes:
        count: Processes in all.
        rank: Of this one, from 0.
        device: Where this process computes.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """

    def __init__(self, device: str = "auto") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("ppo.device = cuda, but torch sees no GPU", "set ppo.device to auto or cpu")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), 0
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        if self.count > 1:
            state = PartialState(cpu=not on_gpu)
            self.count, self.rank, self.device = state.num_processes, state.process_index, state.device

    def rows(self, total: int) -> slice:
        """Return this process's share of ``total`` rows; shares differ by one row at most."""
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def each(self, rollouts: Rollouts, function: Callable[[Rollouts], Tensor]) -> Tensor:
        """Return ``function`` of all rollouts (``B x ...``), each process having worked on its own rows."""
        if self.count == 1:
            return function(rollouts)
        rows = self.rows(len(rollouts))
        places = torch.arange(rows.start, rows.stop, device=rollouts.response_ids.device)
        return self.gather(function(rollouts.select(places)), len(rollouts))

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Return the rows of all processes in order: ``total x ...``, of each process's own ``n x ...``."""
        if self.count == 1:
            return own
        most = -(-total // self.count)
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own
        shared: Tensor = gather(padded.contiguous())
        sizes = [(rank + 1) * total // self.count - rank * total // self.count for rank in range(self.count)]
        return torch.cat([part[:size] for part, size in zip(torch.split(shared, most), sizes, strict=True)])

    def sum(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        return value if self.count == 1 else float(reduce(torch.tensor(value, device=self.device).double(), "sum"))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over all processes into every gradient, in one exchange for each kind of number.

        A process without a gradient counts as zero.
        """
        if self.count == 1:
            return
        kinds: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                kinds.setdefault(parameter.dtype, []).append(parameter)
        for together in kinds.values():
            own = [torch.zeros_like(each) if each.grad is None else each.grad for each in together]
            summed: Tensor = reduce(torch.cat([each.flatten() for each in own]), "sum")
            for each, part in zip(together, torch.split(summed, [each.numel() for each in together]), strict=True):
                each.grad = part.view_as(each)

    def check_rows(self, rows: int, name: str) -> None:
        """Refuse fewer rows than processes.

        Raises:
            ConfigError: Some process would have nothing to do.
        """
        if rows < self.count:
            raise ConfigError(f"{name} = {rows} is fewer than the {self.count} processes", f"set {name} higher")
