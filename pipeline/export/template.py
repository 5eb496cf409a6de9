"""What every trainer's snippet is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.export.reward_model_code import RewardModelCode
from pipeline.trainers.ppo.settings import SamplingSettings
from shaping.printable import printable
from shaping.shape_file import ShapeFile


@dataclass(frozen=True)
class PolicySource:
    """Where the study's policy comes from.

    Attributes:
        model: A folder, or a name on the Hugging Face hub.
        options: What ``from_pretrained`` takes besides, such as ``gguf_file``.
        eos_token: The token that ends a response.
        prompts: The training prompts as rows of a dataset, each ``{"prompt": text or messages}``.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    eos_token: str = ""
    prompts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Exported:
    """A shape on its way to a trainer.

    Attributes:
        content: The shape file.
        reward_model: Makes the study's reward model again.
        sampling: How the study sampled responses.
        policy: The study's; ``None`` where a trainer of one's own had it.
    """

    content: ShapeFile
    reward_model: RewardModelCode
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    policy: PolicySource | None = None


def origin(content: ShapeFile) -> str:
    """Return comment lines: study, arm, shape, and what the study took off scores.

    Names are quoted as Python quotes them, so that none ends its line.
    """
    lines = [f"Study {content.study.get('name')!r}, arm {content.study.get('arm')!r}: {content.shape.describe()}."]
    if content.missing_eos_penalty:
        lines.append(f"The study took {content.missing_eos_penalty:g} off the score of a response without its end.")
    return "\n".join(f"# {printable(line)}" for line in lines)
