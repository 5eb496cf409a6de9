"""The shape file: a shape with everything that gives it its meaning, bound to the reward model it was tuned for.

``shape_file.schema.json`` beside this file says the same to programs of other languages.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shaping.errors import ConfigError
from shaping.shape import Shape

SCHEMA = "shapetune/shape/2"
# Of files whose shape was found together with settings of the trainer: whoever knows only the other must not read it.
SCHEMA_WITH_TRAINER = "shapetune/shape/3"
KL_ESTIMATORS = ("k1", "k3")
CRITICS = ("value_head", "network", "reward_model")
AGAIN = "export the shape again"


@dataclass(frozen=True)
class ShapeFile:
    """What a shape file holds.

    Attributes:
        shape: Where the reward falls, with the ``gamma`` and ``lambda`` that it was tuned with.
        kl_coef: Price of a nat of KL(policy || reference), taken off each token's reward.
        kl_estimator: How that KL is estimated from a token's log-probabilities: ``k1`` or ``k3``.
        critic: What estimated the values: ``value_head``, ``network`` or ``reward_model``.
        missing_eos_penalty: Taken off the score of a response without its end.
        reward_model: What the reward model is called; ``None`` where that is not known.
        reward_model_sha256: Its ``identity()``; ``None`` where that is not known.
        trainer: Settings of the trainer that were searched with the shape, by their place in the study's config.
        study: Where the shape comes from: names of study, task and arm, numbers of trials.
        confirmed: Paired differences to each rival on fresh seeds; ``None`` where nothing was confirmed.
        versions: Of the packages that found it.
    """

    shape: Shape
    kl_coef: float
    kl_estimator: str = "k1"
    critic: str = "value_head"
    missing_eos_penalty: float = 0.0
    reward_model: str | None = None
    reward_model_sha256: str | None = None
    trainer: Mapping[str, float | int | str] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)
    confirmed: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content, with its checksum."""
        known = self.reward_model is not None or self.reward_model_sha256 is not None
        content = {
            "schema": SCHEMA_WITH_TRAINER if self.trainer else SCHEMA,
            "shape": self.shape.to_dict(),
            "ppo": {name: getattr(self, name) for name in ("kl_coef", "kl_estimator", "critic", "missing_eos_penalty")},
            **({"trainer": dict(self.trainer)} if self.trainer else {}),
            "reward_model": {"name": self.reward_model, "sha256": self.reward_model_sha256} if known else None,
            "study": dict(self.study),
            "confirmed": None if self.confirmed is None else dict(self.confirmed),
            "versions": dict(self.versions),
        }
        return {**content, "checksum_sha256": checksum(content)}

    def write(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> ShapeFile:
        """Return what a file holds.

        Raises:
            ConfigError: It cannot be read, is of another version, was altered, or lacks something.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refused)
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"shape file {path} cannot be read: {error}", "give the shape.json of an export"
            ) from error
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        if found not in (SCHEMA, SCHEMA_WITH_TRAINER):
            raise ConfigError(f"shape file {path} has schema {found!r}, not {SCHEMA!r}", AGAIN)
        if content.get("checksum_sha256") != checksum(content):
            raise ConfigError(f"shape file {path} was altered after it was exported", AGAIN)
        try:
            return cls._of(content)
        except ConfigError as error:
            raise ConfigError(f"shape file {path}: {error.message}", error.hint or AGAIN) from error

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> ShapeFile:
        ppo, reward_model = _section(content, "ppo"), content.get("reward_model", {})
        bound = {} if reward_model is None else _section(content, "reward_model")
        confirmed = None if content.get("confirmed", {}) is None else _section(content, "confirmed")
        return cls(
            shape=Shape.from_dict(_section(content, "shape")),
            kl_coef=_amount(ppo, "ppo", "kl_coef"),
            kl_estimator=_choice(ppo, "ppo", "kl_estimator", KL_ESTIMATORS),
            critic=_choice(ppo, "ppo", "critic", CRITICS),
            missing_eos_penalty=_amount(ppo, "ppo", "missing_eos_penalty"),
            trainer=_settings(content),
            reward_model=_words(bound, "reward_model", "name"),
            reward_model_sha256=_words(bound, "reward_model", "sha256"),
            study=_section(content, "study"),
            confirmed=confirmed,
            versions=_section(content, "versions"),
        )

    def check_reward_model(self, reward_model: object, accepted: str | None = None) -> None:
        """Refuse a reward model that the shape was not tuned for.

        Args:
            reward_model: One with an ``identity()``, or an identity.
            accepted: The name of another reward model that shall serve in its place.

        Raises:
            ConfigError: It is another one, or has no identity, and was not accepted by its name.
        """
        name = str(getattr(reward_model, "name", reward_model))
        if self.reward_model_sha256 is None or accepted == name:
            return
        made = getattr(reward_model, "identity", None)
        identity = reward_model if isinstance(reward_model, str) else made() if callable(made) else None
        if identity == self.reward_model_sha256:
            return
        tuned = f"the shape was tuned for {self.reward_model or 'a reward model'} ({self.reward_model_sha256[:12]}…)"
        found = f"the reward model {name} has no identity" if identity is None else f"{name} is another reward model"
        remedy = f"use the reward model of the study, or accept this one by its name: accept_reward_model {name!r}"
        raise ConfigError(f"{found}: {tuned}", remedy)


def checksum(content: Mapping[str, Any]) -> str:
    """Return the hash of everything in the file but the hash itself."""
    rest = {key: value for key, value in content.items() if key != "checksum_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"{name} is missing" if name not in content else f"{name} = {found!r} is no object")
    return found


def _settings(content: Mapping[str, Any]) -> dict[str, float | int | str]:
    if content["schema"] == SCHEMA:
        if "trainer" in content:
            raise ConfigError(f"trainer stands in a file of schema {SCHEMA!r}, whose readers leave it out")
        return {}
    found = _section(content, "trainer")
    if not found:
        raise ConfigError(f"trainer is empty, where schema {SCHEMA_WITH_TRAINER!r} promises settings")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ConfigError(f"trainer.{name} = {value!r} is neither a number nor a word")
    return found


def _amount(section: Mapping[str, Any], of: str, name: str) -> float:
    value = section.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{of}.{name} = {value!r} is not a number of at least 0")
    return float(value)


def _choice(section: Mapping[str, Any], of: str, name: str, allowed: tuple[str, ...]) -> str:
    value = section.get(name)
    if value not in allowed:
        raise ConfigError(f"{of}.{name} = {value!r} is unknown", f"choose one of {', '.join(allowed)}")
    return str(value)


def _words(section: Mapping[str, Any], of: str, name: str) -> str | None:
    value = section.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{of}.{name} = {value!r} is not text")
    return value
