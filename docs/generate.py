"""Writes the pages that the code itself knows best: ``python docs/generate.py`` makes both anew."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.cli import app
from pipeline.config.schema import StudyConfig

DOCS = Path(__file__).resolve().parent
GENERATED = "<!-- Written by docs/generate.py; change the code that it reads, and run it again. -->"
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", date: "day"}
CONFIGURATION = """\
# Configuration

A study is described by one YAML file. Every key below may stand in it, and `--set key=value` changes one of them.
Keys that are left out have their defaults. Unknown keys are refused, with the key's name and a remedy. So are keys that
stand twice, in the file or behind `--set`.

Numbers are read as they stand there: `1e-3` is 0.001, and `010` is 10. No truth value stands for a number.

`shapetune launch quickstart` takes a built-in config by its name. [Tasks](tasks.md) says what each of them is for.
A study saves its resolved config in its folder, as `study.yaml`.

A heading names a section, and its table the keys in it. `steps` under `ppo` is `ppo.steps` for `--set`.
"""
COMMAND_LINE = """\
# Command line

`shapetune` has one command for each thing that can be done with a study. `shapetune COMMAND --help` prints the same.

Exit codes are 0 for success, 1 where `doctor` finds something missing, and 2 for input that was refused. An interrupted
launch ends with 130 after Ctrl+C and with 143 after SIGTERM. A refusal names the field, its value and a remedy.
"""


def configuration() -> str:
    """Return the page of the config's keys."""
    return "\n".join([GENERATED, "", CONFIGURATION, *_section(StudyConfig, "", "", {})]).rstrip() + "\n"


def command_line() -> str:
    """Return the page of the command line."""
    group: Any = typer.main.get_command(app)
    parts = [GENERATED, "", COMMAND_LINE]
    common = [parameter for parameter in group.params if parameter.name != "help"]
    if common:
        parts += ["## `shapetune`", "", *_parameters(common)]
    for name, command in group.commands.items():
        parts += [f"## `shapetune {name}`", "", *_command(name, command)]
    return "\n".join(parts).rstrip() + "\n"


def _section(model: type[BaseModel], prefix: str, owner: str, told: dict[type[BaseModel], str]) -> Iterator[str]:
    """Yield the lines of a section's table, then those of the sections below it.

    Args:
        model: The section.
        prefix: Of its keys.
        owner: The kind of task that it belongs to, as headings have it; empty elsewhere.
        told: Sections that were told already, with their headings; a second one refers to the first.
    """
    yield from ("| key | meaning | type | default | bounds |", "| --- | --- | --- | --- | --- |")
    for name, info in model.model_fields.items():
        cells = (_cell(info.description or ""), _type(info.annotation), _default(info), _bounds(info))
        yield f"| `{name}` | {' | '.join(cells)} |"
    for name, info in model.model_fields.items():
        key, sections = f"{prefix}{name}", _models(info.annotation)
        for section in sections:
            kind = _tag(section) if len(sections) > 1 else owner
            heading = f"`{key}`{kind}"
            yield from ("", f"{'##' if key.count('.') == 0 else '###'} {heading}", "")
            if section in told:
                yield f"Its keys are those of {told[section]}."
                continue
            told[section] = heading
            yield from (_told(section), "")
            yield from _section(section, f"{key}.", kind, told)


def _tag(model: type[BaseModel]) -> str:
    (name,) = get_args(model.model_fields["name"].annotation)
    return f" of {name}"


def _told(thing: Any) -> str:
    """Return a docstring's prose as Markdown, without the Google sections that follow it."""
    text = re.split(r"\n\n(?:Args|Attributes|Raises|Returns):\n", inspect.getdoc(thing) or "")[0]
    return text.replace("``", "`")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) if part is not None for model in _models(part)]


def _type(annotation: Any) -> str:
    """Return a type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if _models(annotation):
        return "section, or unset" if type(None) in parts else "section"
    if origin is Literal:
        return ", ".join(f"`{_plain(part)}`" for part in parts)
    if origin in (Union, types.UnionType):
        words = " or ".join(_type(part) for part in parts if part is not type(None))
        return f"{words}, or unset" if type(None) in parts else words
    if origin is tuple:
        return f"list of {_type(parts[0])}s" if parts[-1] is Ellipsis else f"{len(parts)} {_type(parts[0])}s"
    if origin is dict:
        return "mapping"
    if origin is typing.Annotated:
        return _type(parts[0])
    return WORDS[annotation]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel) or value == {}:
        return ""
    return "unset" if value is None else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _bounds(info: FieldInfo) -> str:
    found = []
    for rule in info.metadata:
        for kind, name, words in (
            (Ge, "ge", "at least {}"),
            (Gt, "gt", "above {}"),
            (Le, "le", "at most {}"),
            (Lt, "lt", "below {}"),
            (MultipleOf, "multiple_of", "a multiple of {}"),
            (MinLen, "min_length", "at least {} long"),
            (MaxLen, "max_length", "at most {} long"),
        ):
            if isinstance(rule, kind):
                found.append(words.format(getattr(rule, name)))
        if getattr(rule, "pattern", None):
            found.append(f"`{_cell(rule.pattern)}`")
    return ", ".join(found)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join(["shapetune", name, *(_argument(each) for each in arguments), *(["[OPTIONS]"] if options else [])])
    yield from ("```text", usage, "```", "", inspect.cleandoc(command.help or ""), "")
    yield from _parameters([*arguments, *options])


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.human_readable_name)
    return name if parameter.required else f"[{name}]"


def _parameters(parameters: list[Any]) -> Iterator[str]:
    yield from ("| | meaning | value | default |", "| --- | --- | --- | --- |")
    for each in parameters:
        if each.param_type_name == "argument":
            shown, value = _argument(each).strip("[]"), "" if each.required else "may be left out"
        else:
            shown, value = ", ".join([*each.opts, *each.secondary_opts]), _value(each)
        default = "" if each.default in (None, []) or isinstance(each.default, bool) else f"`{each.default}`"
        if each.required and each.param_type_name == "option":
            default = "required"
        yield f"| `{_cell(shown)}` | {_cell(each.help or '')} | {value} | {default} |"
    yield ""


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    annotation = option.type_descriptor.annotation
    bounds = "" if option.min is None else f", {option.min} or more"
    if option.max is not None:
        bounds = f", {option.min} to {option.max}"
    return f"{WORDS[(get_args(annotation) or (annotation,))[0]]}{bounds}{', again for each' if option.multiple else ''}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def pages() -> dict[str, str]:
    """Return every generated page by its file's name."""
    return {"configuration.md": configuration(), "command-line.md": command_line()}


if __name__ == "__main__":
    for file, text in pages().items():
        (DOCS / file).write_text(text, encoding="utf-8")
