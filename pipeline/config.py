"""The study's config: typed, frozen, checked in full before anything is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.ppo.settings import EvaluationSettings, PPOSettings, SamplingSettings
from pipeline.tasks.paths import absolute_paths
from pipeline.tasks.settings import TASK_NAMES, SentimentSettings, TaskSettings
from search_spaces import SPACES, SearchSpace, make_space
from shaping.errors import ConfigError
from shaping.reward_models.base import check_layer
from shaping.shape import Shape


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SpaceSettings(_Section):
    """What may vary, and the fixed part of every shape."""

    name: str = "credit_mix"
    methods: tuple[str, ...] = Field(("prefix", "attention", "shapley"), min_length=1)
    gae_lambda: tuple[float, float] = (0.6, 1.0)
    balance: tuple[float, float] = (0.0, 1.0)

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SPACES:
            raise ValueError(f"space {value!r} is unknown; choose one of {', '.join(sorted(SPACES))}")
        return value


class ShapeSettings(_Section):
    """The part of every shape that the study does not search; see ``shaping.shape.Shape``."""

    unit: Literal["token", "span", "sentence"] = "span"
    max_span: int = Field(4, ge=1)
    max_units: int = Field(6, ge=1)
    absent: Literal["delete", "mask", "attention"] = Field("delete", description="How a unit is taken away.")
    estimator: Literal["auto", "exact", "kernel", "permutation"] = "auto"
    budget: int = Field(16, ge=4)
    budget_tokens: int | None = Field(None, ge=1, description="Forwarded response tokens, in place of budget.")
    attention_layer: int = Field(-1, description="Layer that attention reads; -1 is the last.")
    attention_heads: Literal["mean", "max"] = "mean"
    gradient_steps: int = Field(32, ge=1)
    closure: Literal["last", "spread"] = "last"
    gamma: float = Field(1.0, gt=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of the baselines that the study does not tune.")
    policy_preserving: bool = True


class SearchSettings(_Section):
    """The outer loop."""

    trials: int = Field(12, ge=1, description="Trials in all, baselines included.")
    sobol_trials: int = Field(3, ge=0, description="Space-filling trials after the baselines.")
    seeds: tuple[int, ...] = Field((0, 1), min_length=1)
    seed: int = Field(0, ge=0, description="Seed of the proposals.")
    objective: Literal["final", "curve"] = Field(
        "final", description="J on held-out prompts at the end, or the mean of J along the training curve."
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct_seeds(value)


class ConfirmSettings(_Section):
    """The winner and its baselines, run again on seeds that the search never saw."""

    seeds: tuple[int, ...] = Field((100, 101, 102, 103), description="Fresh seeds; none at all skips the confirmation.")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct_seeds(value)


class ExecutorSettings(_Section):
    """Where trials run."""

    name: Literal["ray", "local"] = "ray"
    slots: int = Field(2, ge=1, le=1024, description="Trials side by side, one thread each; local runs one.")
    address: str = Field("local", min_length=1, description="Ray cluster: local starts one for the study.")


class StudyConfig(_Section):
    """A study: task, space, inner loop, outer loop, confirmation, executor."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: TaskSettings = Field(default_factory=SentimentSettings)
    space: SpaceSettings = Field(default_factory=SpaceSettings)
    shape: ShapeSettings = Field(default_factory=ShapeSettings)
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    ppo: PPOSettings = Field(default_factory=PPOSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    confirm: ConfirmSettings = Field(default_factory=ConfirmSettings)
    executor: ExecutorSettings = Field(default_factory=ExecutorSettings)

    @field_validator("task", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": "sentiment", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        space = self.make_space()
        shared = set(self.search.seeds) & set(self.confirm.seeds)
        if shared:
            raise ValueError(
                f"confirm.seeds: {sorted(shared)} are also in search.seeds; confirm on seeds the search never saw"
            )
        # The layers of other tasks' reward models are known when they are loaded.
        if "attention" in self.space.methods and isinstance(self.task, SentimentSettings):
            check_layer(self.shape.attention_layer, self.task.recipe.layers, self.task.name)
        baselines = len(space.baselines())
        if self.search.trials < baselines:
            raise ValueError(
                f"search.trials = {self.search.trials} is fewer than the {baselines} baseline arms of space "
                f"{self.space.name}; set at least {baselines}"
            )
        return self

    def make_space(self) -> SearchSpace:
        """Return the search space, its shapes completed with this study's fixed part."""
        return make_space(
            self.space.name,
            base=self.base_shape(),
            methods=self.space.methods,
            gae_lambda=self.space.gae_lambda,
            balance=self.space.balance,
        )

    def base_shape(self) -> Shape:
        """Return the sparse shape at the study's settings: what every other shape changes."""
        return Shape(weights={"sparse": 1.0}, balance=1.0, **self.shape.model_dump())

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def _distinct_seeds(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(value)) != len(value) or any(seed < 0 for seed in value):
        raise ValueError(f"seeds {list(value)} must be distinct and not negative")
    return value


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Return the checked config of a YAML file with ``key=value`` overrides applied.

    Relative paths of the file are looked for in its folder, then in the working directory; those of overrides in the
    working directory. All are absolute in what is returned.

    Raises:
        ConfigError: The file cannot be read, or a value cannot be used; names field, value and remedy.
    """
    values = _read_yaml(path)
    values["task"] = absolute_paths(values.get("task", {}), path.parent, every=False)
    for override in overrides:
        _apply(values, override)
    values["task"] = absolute_paths(values["task"], Path.cwd(), every=True)
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], source: str) -> StudyConfig:
    """Return the checked config of plain values; ``source`` names them in errors.

    Raises:
        ConfigError: A value cannot be used.
    """
    try:
        return StudyConfig.model_validate(values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}", error.hint) from error
    except ValidationError as error:
        problems = error.errors()
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{source}: {_problem(problems[0])}{more}", _remedy(problems[0])) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"config {path} does not exist", "give a YAML file, or the name of a built-in config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}", "give a readable YAML file") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"config {path}{line} is not YAML", "check its indentation and quotes") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path} holds {type(values).__name__}, not a mapping", "start it with name: ...")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r} is not key=value", "write it like --set ppo.steps=10")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not YAML", "quote it") from error
    *parents, last = key.strip().split(".")
    place = values
    for parent in parents:
        below = place.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {key}: {parent} holds a value, not a section", "check the key")
        place = below
    place[last] = value


def _problem(problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    # The kind of task is no key of the file, but pydantic names it among the keys.
    if place[:1] == ["task"] and place[1:2] in [[name] for name in TASK_NAMES]:
        del place[1]
    field = ".".join(place) or "config"
    if problem["type"] == "union_tag_invalid":
        return f"{field}.name = {problem['ctx']['tag']!r} is unknown; choose {problem['ctx']['expected_tags']}"
    if problem["type"] == "extra_forbidden":
        return f"{field} is not a known key"
    if problem["type"] == "missing":
        return f"{field} is missing"
    value = problem["input"]
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool | list | tuple) else ""
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{message}" if field == "config" else f"{field}{shown}: {message}"


def _remedy(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "remove it or correct its spelling; configs/quickstart.yaml shows every section"
    if problem["type"] == "missing":
        return "add it"
    return ""
