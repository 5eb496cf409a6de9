"""``space.trainer``: which settings of the trainer a study searches, read, checked, and applied to a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from pipeline.config.yaml_text import as_numbers
from pipeline.trainers.ppo.settings import SEARCHED, PPOSettings
from search_spaces import Setting, SettingChoice, SettingRange
from search_spaces.base import Value
from shaping.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.schema import StudyConfig

FIELD = "space.trainer"
PPO, OPTIONS = "ppo.", "trainer.options."
RANGE_KEYS = {"low", "high", "log"}
REMEDY = "write a list of values, or {low: 0.1, high: 1.0}, with log: true for a log scale"
# Combinations of bounds that are tried together; of more, each setting is tried alone.
MOST_COMBINATIONS = 4096


def flat(values: Any) -> dict[str, Any]:
    """Return the settings by their whole names, however deep each was written; one that is null is left out.

    Raises:
        ValueError: The section is no mapping, a setting is named twice, or what is said of it is no range or list.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{FIELD} is no mapping; write ppo.critic: [value_head, network] below it")
    found: dict[str, Any] = {}
    for name, value in _leaves(values, ""):
        if name in found:
            raise ValueError(f"{FIELD}.{name} is named twice; keep one of them")
        if value is not None:
            found[name] = _checked(name, as_numbers(value))
    return found


def nested(values: Any) -> Any:
    """Return the section with each setting below its parts, so that one can be changed by its dotted name.

    What cannot be read is returned as it is, for the check that follows.
    """
    if not isinstance(values, Mapping):
        return values
    root: dict[str, Any] = {}
    for name, value in _leaves(values, ""):
        *parents, last = name.split(".")
        place = root
        for parent in parents:
            below = place.setdefault(parent, {})
            if not isinstance(below, dict) or _is_range(below):
                return values
            place = below
        if last in place:
            return values
        place[last] = value
    return root


def _leaves(values: Mapping[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value and not _is_range(value):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _is_range(value: Mapping[Any, Any]) -> bool:
    return bool(RANGE_KEYS & set(value))


def _checked(name: str, value: Any) -> Any:
    where = f"{FIELD}.{name}"
    if isinstance(value, Mapping):
        if set(value) - RANGE_KEYS or not {"low", "high"} <= set(value):
            raise ValueError(f"{where} = {dict(value)!r} is no range; {REMEDY}")
        if any(isinstance(value[key], bool) or not isinstance(value[key], int | float) for key in ("low", "high")):
            raise ValueError(f"{where} = {dict(value)!r}: bounds are numbers; {REMEDY}")
        if not isinstance(value.get("log", False), bool):
            raise ValueError(f"{where}.log = {value['log']!r} is neither true nor false; write log: true")
        return {"low": value["low"], "high": value["high"], **({"log": True} if value.get("log") else {})}
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} = {value!r} is neither a range nor a list; {REMEDY}")
    if not all(isinstance(each, int | float | str) and not isinstance(each, bool) for each in value):
        raise ValueError(f"{where} = {list(value)!r} holds what is neither number nor word; {REMEDY}")
    return list(value)


def searched_settings(config: StudyConfig) -> tuple[Setting, ...]:
    """Return the settings of the trainer that a study searches.

    Raises:
        ConfigError: One cannot be searched, its trainer does not know it, a bound is no value of it, or the study's
            own value, at which the first arms stand, is not among them.
    """
    found = tuple(_setting(config, name, value) for name, value in config.space.trainer.items())
    for each in found:
        own = default_value(config, each.name)
        if not each.holds(own):
            raise ConfigError(
                f"{FIELD}.{each.name} ({each.words()}) leaves out {each.name} = {own}, at which the first arms stand",
                f"set {each.name} to one of its values, or widen it",
            )
    _check_bounds(config, found)
    return found


def default_value(config: StudyConfig, name: str) -> Value:
    """Return the study's own value of a setting.

    Raises:
        ConfigError: It has none.
    """
    if name.startswith(PPO):
        value = getattr(config.ppo, name.removeprefix(PPO))
    else:
        value = (config.trainer.options if config.trainer else {}).get(name.removeprefix(OPTIONS))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"{FIELD}.{name} is searched, but {name} has no value to begin at", f"set {name}")
    return value


def _setting(config: StudyConfig, name: str, value: Any) -> Setting:
    if name.startswith(OPTIONS):
        if config.trainer is None:
            raise ConfigError(
                f"{FIELD}.{name}: there is no custom trainer that reads it", "name trainer.function, or remove it"
            )
        numbers = value if isinstance(value, list) else [value["low"], value["high"]]
        whole = all(isinstance(each, int) for each in (*numbers, default_value(config, name)))
    else:
        _check_known(config, name)
        whole = int in _kinds(PPOSettings.model_fields[name.removeprefix(PPO)].annotation)
    if isinstance(value, list):
        return SettingChoice(name, tuple(value))
    return SettingRange(name, value["low"], value["high"], bool(value.get("log")), whole)


def _check_known(config: StudyConfig, name: str) -> None:
    known = ", ".join(f"{PPO}{each}" for each in SEARCHED)
    if not name.startswith(PPO) or name.removeprefix(PPO) not in PPOSettings.model_fields:
        raise ConfigError(f"{FIELD}.{name} is no setting of a trainer", f"choose from {known}, or {OPTIONS}NAME")
    if name.removeprefix(PPO) not in SEARCHED:
        raise ConfigError(f"{FIELD}.{name} cannot be searched", f"set {name} itself; what can is {known}")
    if config.trainer is not None:
        raise ConfigError(
            f"{FIELD}.{name} would change nothing: trainer.function trains, and no PPO of ours",
            f"search {OPTIONS}NAME, an option that the function reads",
        )
    updates = (config.ppo.num_ppo_epochs, config.ppo.num_mini_batches)
    others = {f"{PPO}num_ppo_epochs", f"{PPO}num_mini_batches"}
    if name == f"{PPO}cliprange" and updates == (1, 1) and not others & set(config.space.trainer):
        raise ConfigError(
            f"{FIELD}.{name} would change nothing: with one update a batch no ratio leaves 1",
            "raise ppo.num_ppo_epochs, or remove it",
        )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def _check_bounds(config: StudyConfig, settings: tuple[Setting, ...]) -> None:
    """Refuse bounds and choices that PPO's settings refuse, together as a trial may have them."""
    ours = [each for each in settings if each.name.startswith(PPO)]
    ends = {each.name: each.choices if isinstance(each, SettingChoice) else (each.low, each.high) for each in ours}
    count = 1
    for values in ends.values():
        count *= len(values)
    if count <= MOST_COMBINATIONS:
        combinations = [dict(zip(ends, values, strict=True)) for values in product(*ends.values())]
    else:
        combinations = [{name: value} for name, values in ends.items() for value in values]
    for changes in combinations:
        try:
            changed_ppo(config.ppo, changes)
        except ValidationError as error:
            problem = error.errors()[0]
            message = str(problem["msg"]).removeprefix("Value error, ")
            field = ".".join(map(str, problem["loc"]))
            if field:
                raise ConfigError(f"{FIELD}.{PPO}{field} = {problem['input']!r}: {message}") from error
            raise ConfigError(f"{FIELD}: {message}") from error


def changed_ppo(settings: PPOSettings, changes: Mapping[str, Any]) -> PPOSettings:
    """Return PPO's settings with those of ``changes`` that are its own, under their whole names."""
    own = {name.removeprefix(PPO): value for name, value in changes.items() if name.startswith(PPO)}
    return PPOSettings.model_validate({**settings.model_dump(), **own}) if own else settings


def with_settings(config: StudyConfig, changes: Mapping[str, Value]) -> StudyConfig:
    """Return the config of a run whose trial chose some of the trainer's settings.

    What the run is judged by stays: the price of KL in J is the study's, whatever the training's is.

    Raises:
        ConfigError: The config's trainer does not have one of the settings.
        ValidationError: PPO's settings refuse a value.
    """
    if not changes:
        return config
    ours = OPTIONS if config.trainer is not None else PPO
    foreign = [name for name in changes if not name.startswith(ours)]
    if foreign:
        raise ConfigError(f"{foreign[0]} = {changes[foreign[0]]!r} is no setting of the config's trainer")
    changed: dict[str, Any] = {"ppo": changed_ppo(config.ppo, changes)}
    if config.trainer is not None:
        own = {name.removeprefix(OPTIONS): value for name, value in changes.items() if name.startswith(OPTIONS)}
        changed["trainer"] = config.trainer.model_copy(update={"options": {**config.trainer.options, **own}})
    price = config.objective.model_copy(update={"kl_price": config.kl_price})
    return config.model_copy(update={**changed, "objective": price})
