"""YAML as users write it: a key given twice is refused, and no number is read as another than stands there.

YAML 1.1, which PyYAML reads, takes ``010`` for 8, ``1:30`` for 90 and ``1e-3`` for a text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from shaping.errors import ConfigError

# What building a value may raise beside YAML's own errors: dates that are none, nests without end.
MISREAD = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
INT, FLOAT, NUMBER = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "!number"
_POINT = r"(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)"
_WRITTEN = re.compile(rf"[-+]?(?:{_POINT}|[0-9][0-9_]*)[eE][-+]?[0-9]+$")
MERGE = "tag:yaml.org,2002:merge"


class WrittenNumber(str):
    """A number that YAML 1.1 takes for a text, such as ``1e-3``: it is whichever of both a field wants."""


class NotYamlError(Exception):
    """A text that is no YAML.

    Args:
        problem: What is wrong, in a few words.
        line: Where, from 1; ``None`` where that is unknown.
    """

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.problem, self.line = problem, line


class _Loader(yaml.SafeLoader):
    """Safe, and without octal and sexagesimal numbers: those stay the texts that they are."""


def _resolvers() -> dict[Any, Any]:
    kept = {
        first: [(tag, pattern) for tag, pattern in found if tag not in (INT, FLOAT)]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    integer = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$")
    fraction = re.compile(rf"[-+]?{_POINT}(?:[eE][-+][0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$")
    for first in "-+.0123456789":
        kept[first] = [*kept.get(first, []), (INT, integer), (FLOAT, fraction), (NUMBER, _WRITTEN)]
    return kept


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Loader`` would take for a number, beside what any YAML would."""


def _written_number(loader: yaml.SafeLoader, node: yaml.Node) -> WrittenNumber:
    assert isinstance(node, yaml.ScalarNode)
    return WrittenNumber(loader.construct_scalar(node))


_Loader.yaml_implicit_resolvers = _resolvers()
for _first in "-+.0123456789":
    _Dumper.add_implicit_resolver(NUMBER, _WRITTEN, [_first])
_Loader.add_constructor(NUMBER, _written_number)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: One document.
        source: What is named before an error.

    Raises:
        ConfigError: A key stands twice in a mapping, at any depth.
        NotYamlError: It cannot be read.
    """
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_unique(loader, root, (), (), source)
        return loader.construct_document(root)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise NotYamlError(f"character {chr(error.character)!r} cannot be shown", line) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise NotYamlError(problem, None if mark is None else mark.line + 1) from error
    except ConfigError:
        raise
    except MISREAD as error:
        raise NotYamlError(" ".join(str(error).split())[:80], None) from error
    finally:
        if loader is not None:
            loader.dispose()


def dump_yaml(values: Any) -> str:
    """Return plain values as YAML that ``parse_yaml`` reads as the same values."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False))


def as_numbers(value: Any) -> Any:
    """Return a value with the numbers in it that YAML 1.1 takes for texts as numbers, lists and mappings anew."""
    if isinstance(value, WrittenNumber):
        return float(value.replace("_", ""))
    if isinstance(value, dict):
        return {key: as_numbers(below) for key, below in value.items()}
    return [as_numbers(below) for below in value] if isinstance(value, list) else value


def _check_unique(
    loader: _Loader, node: yaml.Node, path: tuple[str, ...], above: tuple[yaml.Node, ...], source: str
) -> None:
    """Refuse a key that stands twice: of two sections of one name, all of the first would be lost."""
    if node in above:
        raise ConfigError(
            f"{source}, line {node.start_mark.line + 1}: {'.'.join(path)} holds itself", "write its values out"
        )
    if isinstance(node, yaml.SequenceNode):
        for place, below in enumerate(node.value):
            _check_unique(loader, below, (*path, str(place)), (*above, node), source)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Any, int] = {}
    for key_node, below in node.value:
        shown = (*path, str(key_node.value))
        if isinstance(key_node, yaml.ScalarNode):
            # A merge is no key of its own: what it brings may be given again.
            key = MERGE if key_node.tag == MERGE else loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise ConfigError(
                    f"{source}, line {line}: {'.'.join(shown)} is given twice, first in line {lines[key]}",
                    "keep one of them, with all that belongs to it",
                )
            lines[key] = line
        _check_unique(loader, below, shown, (*above, node), source)
