"""``shapetune doctor CONFIG --gpu-memory``: what each part of a run takes of a GPU, and when."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.config.schema import StudyConfig
from pipeline.estimate.fit import GIB, Fit, fit_into
from shaping.errors import ConfigError

ALWAYS = "always"
WHEN = {
    "policy": f"{ALWAYS}: what is trained",
    "optimizer": "from the first update on",
    "sampling": "keys and values, logits",
    "observing": "what was sampled is read",
    "updating": "activations and gradients",
    "attention row": "one layer's map",
}
SCORED = "a forward pass, or less"


def show_fit(config: StudyConfig, gpu_gib: float, console: Console) -> None:
    """Print what a config's runs take of a GPU, and what they may cost.

    Raises:
        ConfigError: They do not fit, or a custom trainer makes them; names the setting with which they would fit.
    """
    if config.trainer is not None:
        raise ConfigError(
            "trainer.function: what a custom trainer takes is not known", "leave out --gpu-memory, or trainer"
        )
    fit = fit_into(config, gpu_gib)
    console.print(_table(fit))
    console.print(
        f"an update of {fit.estimate.shape.updated} responses at once was counted; {fit.largest_update()} would fit"
    )
    looked = sum(fit.memory.weights.get(name, 0) for name in ("reference", "reward model", "gold model"))
    console.print(f"the driver loads {looked / GIB:.1f} GiB of weights once, to look at them before anything runs")
    console.print(fit.line())


def say_fit(config: StudyConfig, console: Console) -> None:
    """Print the last line of ``show_fit`` for this machine's GPU, or what does not fit.

    It is an estimate: a run that would not fit is tried nevertheless, in smaller portions.
    """
    if config.trainer is not None:
        return
    share = min(1.0, config.executor.gpus or 1.0)
    try:
        said = fit_into(config, share * torch.cuda.get_device_properties(0).total_memory / GIB).line()
    except ConfigError as error:
        said = f"{error.message}; {error.hint}"
    console.print(escape(said))


def _table(fit: Fit) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("GiB", justify="right")
    table.add_column("s a step", justify="right")
    table.add_column("when, and what")
    seconds = fit.seconds.parts
    for name, size in {**fit.memory.weights, "optimizer": fit.memory.moments, **fit.memory.parts}.items():
        took = seconds.get("scoring" if name == "scoring, reward model" else name)
        when = WHEN.get(name, SCORED if name.startswith("scoring") else ALWAYS)
        table.add_row(name, f"{size / GIB:.2f}", "" if took is None else f"{took:.3g}", when)
    if "credit" in seconds:
        table.add_row("credit", "", f"{seconds['credit']:.3g}", "coalitions")
    return table
