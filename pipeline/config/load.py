"""From a config's name to a checked config: built-in configs, YAML files, overrides, paths made absolute."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.database_url import masked
from pipeline.config.schema import StudyConfig
from pipeline.config.trainer_space import nested
from pipeline.config.yaml_text import NotYamlError, parse_yaml
from pipeline.runtime.section import FieldError
from pipeline.tasks.settings import TASK_NAMES
from shaping.errors import ConfigError

# Of a study's folder: raised when a version keeps there what earlier ones would misread.
FORMAT_KEY, FORMAT = "study_format", 1
FILES = ("prompts", "held_out_prompts")
SECTIONS = ("policy", "reward_model", "gold_model")
# How values of a form are written, by pydantic's name for its absence.
FORMS = {
    "tuple_type": "write a list: [a, b]",
    "model_type": "write its keys below it, or in braces: {key: value}",
    "model_attributes_type": "write its keys below it, or in braces: {key: value}",
    "invalid_key": "write a word, or put it in quotes",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
}
# Found by name like the others, but of no use before its paths are filled in.
TEMPLATE = "own_models"


def builtin_folder() -> Path:
    """Return where the built-in configs are: inside an installed package, or at the top of a checkout."""
    here = Path(__file__).parents[1]
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def find_config(name: str) -> Path:
    """Return the path of a config: a file, or the name of a built-in one with or without ``.yaml``.

    Raises:
        ConfigError: There is neither such a file nor such a built-in config.
    """
    path = Path(name)
    if path.is_file():
        return path
    # The installed package carries configs/, so that configs/quickstart.yaml works wherever one stands.
    if path.parent in (Path(), Path("configs")):
        builtin = builtin_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
        if builtin.is_file():
            return builtin
    known = ", ".join(sorted(file.stem for file in builtin_folder().glob("*.yaml") if file.stem != TEMPLATE))
    raise ConfigError(
        f"config {name} does not exist",
        f"give a YAML file (a copy of {builtin_folder() / f'{TEMPLATE}.yaml'}), or a built-in config: {known}",
    )


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
    if isinstance(values.get("space"), dict):
        # So that --set space.trainer.ppo.critic=... replaces what the file says of it.
        values["space"] = {**values["space"], "trainer": nested(values["space"].get("trainer"))}
    _check_keys_given_once(overrides)
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
        places = [place / os.path.expanduser(file) for place in (folder, Path.cwd())]
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
        values = parse_yaml(path.read_text(encoding="utf-8-sig"), f"config {path}")
    except FileNotFoundError as error:
        raise ConfigError(
            f"config {path} does not exist", "give a YAML file, or the name of a built-in config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}", "give a readable YAML file") from error
    except NotYamlError as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(
            f"config {path}{line} is not YAML: {error.problem}", "check its indentation and quotes"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path} holds {type(values).__name__}, not a mapping", "start it with name: ...")
    return values


def _key_of(override: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in override.partition("=")[0].split("."))


def _check_keys_given_once(overrides: tuple[str, ...]) -> None:
    """Refuse overrides of which a later one would undo an earlier one: a key given twice, or a section after its key.

    Raises:
        ConfigError: Two of them have the same key, or one the section of another's.
    """
    keys = [_key_of(override) for override in overrides]
    for place, key in enumerate(keys):
        for earlier in keys[:place]:
            if earlier[: len(key)] == key:
                undone = "" if earlier == key else f" after {'.'.join(earlier)}, which it would undo"
                raise ConfigError(
                    f"--set {'.'.join(key)} is given{undone or ' twice'}", "keep one of them, with all that is meant"
                )


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r} is not key=value", "write it like --set ppo.steps=10")
    key = ".".join(_key_of(override))
    try:
        value = parse_yaml(text, f"--set {key}")
    except NotYamlError as error:
        shown = masked(text) if key.startswith("storage") else text
        raise ConfigError(f"--set {key}: {shown!r} is not YAML", "quote it") from error
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        below = place[parent]
        if not isinstance(below, dict):
            raise ConfigError(f"--set {key}: {parent} holds a value, not a section", "check the key")
        place = below
    place[last] = value


def _problem(problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    # The kind of task is no key of the file, but pydantic names it among the keys.
    if place[:1] == ["task"] and place[1:2] in [[name] for name in TASK_NAMES]:
        del place[1]
    value, cause = problem["input"], problem.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        place, value = [*place, cause.field], cause.value
    field = ".".join(place) or "config"
    if problem["type"] == "union_tag_invalid":
        return f"{field}.name = {problem['ctx']['tag']!r} is unknown; choose {problem['ctx']['expected_tags']}"
    if problem["type"] == "extra_forbidden":
        return f"{field} is not a known key"
    if problem["type"] == "missing":
        return f"{field} is missing"
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
    if problem["type"] == "string_type" and isinstance(problem["input"], int | float):
        return "put it in quotes, where a text is meant"
    if problem["input"] is None:
        return "give it a value, or remove its line"
    return FORMS.get(problem["type"], "")


def absolute_paths(task: Any, folder: Path, every: bool) -> Any:
    """Return a task's plain values with the paths in them made absolute; what is no mapping comes back as it is.

    Files, model folders (a model may also be a name on the hub) and the files of reward functions are looked for in
    ``folder``.

    Args:
        task: The ``task`` section, not checked yet.
        folder: What paths are relative to.
        every: Whether a path that leads to nothing is made absolute, too, for the error that will follow.
    """
    if not isinstance(task, dict):
        return task
    found = dict(task)
    for name in FILES:
        if isinstance(task.get(name), str):
            found[name] = _absolute(task[name], folder, every)
    for name in SECTIONS:
        if isinstance(task.get(name), dict):
            found[name] = _section(task[name], folder, every)
    return found


def _section(values: dict[str, Any], folder: Path, every: bool) -> dict[str, Any]:
    found, model, function = dict(values), values.get("model"), values.get("function")
    if isinstance(model, str):
        # A name such as org/model may be on the hub; only what begins like a path cannot be.
        found["model"] = _absolute(model, folder, every and model.startswith((".", "~")))
    if isinstance(function, str):
        file, colon, name = function.rpartition(":")
        if file.endswith(".py"):
            found["function"] = f"{_absolute(file, folder, every)}{colon}{name}"
    return found


def _absolute(text: str, folder: Path, even_if_missing: bool) -> str:
    # An address is no path.
    if not text or "://" in text:
        return text
    path = os.path.abspath(folder / os.path.expanduser(text))
    return path if even_if_missing or os.path.exists(path) else text
