"""The study's config: typed, frozen, checked in full before anything is touched."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.config.database_url import check_url, masked
from pipeline.config.paths import absolute_paths
from pipeline.config.settings import (
    ConfirmSettings,
    ExecutorSettings,
    SearchSettings,
    Section,
    ShapeSettings,
    SpaceSettings,
    TrainerSettings,
)
from pipeline.tasks.settings import TASK_NAMES, SentimentSettings, TaskSettings
from pipeline.trainers.ppo.settings import EvaluationSettings, PPOSettings, SamplingSettings
from search_spaces import SearchSpace, make_space
from shaping.errors import ConfigError
from shaping.shape import Shape, check_layer

# Of a study's folder: raised when a version keeps there what earlier ones would misread.
FORMAT_KEY, FORMAT = "study_format", 1


class StorageSettings(Section):
    """Where the search's trials are kept: a SQLite file in the study's folder, or a PostgreSQL database."""

    # Errors and tracebacks repeat what they refuse, and an address may hold a password.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str | None = Field(None, description="postgresql+psycopg://USER@HOST:PORT/DATABASE, without a password.")
    patience_seconds: float = Field(300, ge=0, description="How long a lost connection is tried again.")

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value).render_as_string()


class StudyConfig(Section):
    """A study: task, space, inner loop, outer loop, confirmation, executor, storage."""

    model_config = ConfigDict(hide_input_in_errors=True)

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
    trainer: TrainerSettings | None = Field(None, description="In place of the built-in PPO; task is then unused.")
    storage: StorageSettings = Field(default_factory=StorageSettings, description="An address alone is its url.")

    @field_validator("storage", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return {} if value is None else {"url": value} if isinstance(value, str) else value

    @field_validator("task", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": "sentiment", **value} if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _no_price_for_ending(cls, values: Any) -> Any:
        # On the last token, what credit leaves of a score would reward or punish that a response ends there.
        sampling, shape = (values.get(name, {}) if isinstance(values, dict) else None for name in ("sampling", "shape"))
        if isinstance(sampling, dict) and sampling.get("stop_at_eos") is True and isinstance(shape, dict):
            return {**values, "shape": {"closure": "first", **shape}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        space = self.make_space()
        shared = set(self.search.seeds) & set(self.confirm.seeds)
        if shared:
            raise ValueError(
                f"confirm.seeds: {sorted(shared)} are also in search.seeds; confirm on seeds the search never saw"
            )
        # The layers of other tasks' reward models are known when they are loaded.
        if self.trainer is None and "attention" in self.space.methods and isinstance(self.task, SentimentSettings):
            check_layer(self.shape.attention_layer, self.task.recipe.layers, self.task.name)
        if self.ppo.reward_scale != 1 and self.shape.policy_preserving:
            raise ValueError(
                f"ppo.reward_scale = {self.ppo.reward_scale} changes the total reward, and with it the optimal policy "
                "under the price of KL; set it to 1, or shape.policy_preserving to false if that is what you want"
            )
        baselines = [arm.name for arm in space.baselines()]
        # An earlier study may hold them already.
        if self.search.trials < len(baselines) and self.search.warm_start is None:
            raise ValueError(
                f"search.trials = {self.search.trials} is fewer than the {len(baselines)} baseline arms of space "
                f"{self.space.name}; set at least {len(baselines)}"
            )
        if "sparse" not in baselines:
            for needed, set_to in (
                ("search.constraints.kl_over_sparse", self.search.constraints.kl_over_sparse is not None),
                ("search.objective = gain", self.search.objective == "gain"),
            ):
                if set_to:
                    raise ValueError(f"{needed} needs the sparse arm; let space.balance begin at 0")
        return self

    def make_space(self) -> SearchSpace:
        """Return the search space, its shapes completed with this study's fixed part."""
        return make_space(
            self.space.name,
            base=self.base_shape(),
            methods=self.space.methods,
            gae_lambda=self.space.gae_lambda,
            balance=self.space.balance,
            units=self.space.units,
            budget=self.space.budget,
        )

    def base_shape(self) -> Shape:
        """Return the sparse shape at the study's settings: what every other shape changes."""
        return Shape(weights={"sparse": 1.0}, balance=1.0, **self.shape.model_dump())

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Return the checked config of a YAML file with ``key=value`` overrides applied.

    Relative paths of the file are looked for in its folder, then in the working directory; those of overrides in the
    working directory. All are absolute in what is returned.

    Raises:
        ConfigError: The file cannot be read, or a value cannot be used; names field, value and remedy.
    """
    values = _read_yaml(path)
    _check_format(values, path)
    values["task"] = absolute_paths(values.get("task", {}), path.parent, every=False)
    for override in overrides:
        _apply(values, override)
    values["task"] = absolute_paths(values["task"], Path.cwd(), every=True)
    for section, key in (("space", "name"), ("trainer", "function")):
        _find_file(values, section, key, path.parent)
    return parse_config(values, str(path))


def _check_format(values: dict[str, Any], path: Path) -> None:
    """Refuse a study that a newer version began; what it keeps may mean something else."""
    found = values.pop(FORMAT_KEY, FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise ConfigError(
            f"{path}: {FORMAT_KEY} = {found!r}: a newer version of shapetune began this study; this one, "
            f"{version('shapetune')}, knows formats up to {FORMAT}",
            "upgrade shapetune",
        )


def _find_file(values: dict[str, Any], section: str, key: str, folder: Path) -> None:
    """Make a file of one's own absolute: workers have working folders of their own."""
    given = values.get(section)
    if not isinstance(given, dict) or not isinstance(given.get(key), str):
        return
    file, colon, name = given[key].rpartition(":")
    if file.endswith(".py"):
        places = [place / Path(file).expanduser() for place in (folder, Path.cwd())]
        found = next((place for place in places if place.is_file()), places[-1])
        values[section] = {**given, key: f"{found.absolute()}{colon}{name}"}


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
        shown = masked(text) if key.strip().startswith("storage") else text
        raise ConfigError(f"--set {key}: {shown!r} is not YAML", "quote it") from error
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
    if place[:1] == ["storage"] and not isinstance(value, int | float):
        # Its errors name the address themselves, without what may be a password in it.
        return message if message.startswith(field) else f"{field}: {message}"
    return f"{message}" if field == "config" else f"{field}{shown}: {message}"


def _remedy(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "remove it or correct its spelling; configs/quickstart.yaml shows every section"
    if problem["type"] == "missing":
        return "add it"
    return ""
