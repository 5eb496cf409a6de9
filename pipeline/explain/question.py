"""What a user wants explained: whose reward model and shapes, and which texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.load import find_config, load_config
from pipeline.config.schema import StudyConfig
from pipeline.study.folder import StudyFolder
from shaping.errors import ConfigError
from shaping.method_names import METHOD_NAMES
from shaping.shape import Shape

if TYPE_CHECKING:
    from pipeline.tasks.prompt_file import PromptRow

ALL = "all"


@dataclass(frozen=True)
class ExplainRequest:
    """The words of the command.

    Attributes:
        subject: A study's folder, an exported ``shape.json``, or a config.
        prompt: What was asked; ``None`` where a file or the study itself tells.
        response: What was answered.
        file: JSON lines of prompts and responses.
        methods: Credit methods to show, or ``all``.
        shapes: Other ``shape.json`` files, or studies that exported them.
        config: Whose task and reward model an exported shape is used with.
        changes: ``key=value`` overrides of the config.
        unfinished: Whether a response stops before the token that ends it.
    """

    subject: str
    prompt: str | None = None
    response: str | None = None
    file: Path | None = None
    methods: tuple[str, ...] = ()
    shapes: tuple[Path, ...] = ()
    config: str | None = None
    changes: tuple[str, ...] = ()
    unfinished: bool = False


@dataclass(frozen=True)
class Subject:
    """What the first argument comes down to.

    Attributes:
        title: Its name.
        config: Its config: task and reward model, and the settings that methods are shown with.
        study: The study, where there is one.
        shape: The name and the shape that it stands for; a config has none, nor has a study before its winner.
        shape_file: Where the shape was exported to, if that was given.
    """

    title: str
    config: StudyConfig
    study: StudyFolder | None = None
    shape: tuple[str, Shape] | None = None
    shape_file: Path | None = None


def checked_question(*words: Any) -> ExplainRequest:
    """Return a question whose words name something that is there; imports nothing heavy.

    Args:
        words: What ``ExplainRequest`` is made of.

    Raises:
        ConfigError: A method is unknown, there is no such study, shape or config, or nobody knows its reward model.
    """
    question = ExplainRequest(*words)
    check_method_names(question.methods)
    named_shapes(question, find_subject(question))
    return question


def find_subject(question: ExplainRequest) -> Subject:
    """Return the study, the shape or the config that the first argument names.

    Raises:
        ConfigError: There is none, or nobody knows its reward model.
    """
    path = Path(question.subject)
    if path.suffix == ".json":
        return _shape_subject(question, path)
    if question.config is not None:
        raise ConfigError(f"--config {question.config} belongs to a shape.json, but {path} is none", "leave it out")
    config, study = _config(question.subject, question.changes)
    if study is None:
        return Subject(config.name, config)
    winner = study.winner()
    if winner is None and not question.methods and not question.shapes:
        raise ConfigError(f"{study.root} has no winner yet", "let its search finish, or name methods with --method")
    named = None if winner is None else (f"winner of {config.name}", winner.shape)
    return Subject(config.name, config, study, named)


def _shape_subject(question: ExplainRequest, path: Path) -> Subject:
    shape, study = Shape.load(path), path.absolute().parent.parent
    # Where an export puts it when it is not told otherwise.
    known = str(study) if (study / "study.yaml").is_file() else None
    whose = question.config or known
    if whose is None:
        raise ConfigError(
            f"nothing tells which reward model {path} is used with",
            "name its study or its config, such as --config quickstart",
        )
    config, folder = _config(whose, question.changes)
    return Subject(str(path), config, folder, (path.name, shape), path)


def _config(name: str, changes: tuple[str, ...]) -> tuple[StudyConfig, StudyFolder | None]:
    """Return a study's config with its folder, or the config of a file or a built-in one."""
    if Path(name).is_dir():
        folder = StudyFolder.existing(Path(name))
        if changes:
            raise ConfigError(f"--set {changes[0]} cannot change the study {name}", "give a config to change")
        return _with_task(name, folder.config()), folder
    try:
        path = find_config(name)
    except ConfigError as error:
        raise ConfigError(f"{name} is no study, no shape.json and no config", error.hint) from error
    return _with_task(name, load_config(path, changes)), None


def _with_task(name: str, config: StudyConfig) -> StudyConfig:
    if config.trainer is not None:
        raise ConfigError(
            f"{name} trains with a trainer of its own, whose reward model is not known here",
            "give its shape.json, and with --config a config whose task has the reward model",
        )
    return config


def check_method_names(methods: tuple[str, ...]) -> None:
    """Refuse what is no credit method.

    Raises:
        ConfigError: One is unknown.
    """
    for name in methods:
        if name not in (*METHOD_NAMES, ALL):
            raise ConfigError(f"--method {name!r} is unknown", f"choose from {', '.join(METHOD_NAMES)}, or {ALL}")


def named_shapes(question: ExplainRequest, subject: Subject) -> dict[str, Shape]:
    """Return the subject's shape and the others that were asked for, by the names of their rows.

    Raises:
        ConfigError: A shape cannot be read, or was given twice.
    """
    rows = dict([subject.shape] if subject.shape else [])
    for path in question.shapes:
        name = path.name if path.name not in (*rows, *METHOD_NAMES) else str(path)
        if name in rows or name in METHOD_NAMES:
            raise ConfigError(f"--shape {path}: there is a row of that name already", "give each shape once")
        rows[name] = Shape.load(shape_file(path))
    return rows


def shape_file(path: Path) -> Path:
    """Return the file of a shape; a study's is the one that it exported.

    Raises:
        ConfigError: The study has exported none.
    """
    if not path.is_dir():
        return path
    file = StudyFolder.existing(path).export / "shape.json"
    if not file.is_file():
        raise ConfigError(f"--shape {path}: the study has exported no shape", f"shapetune export {path}")
    return file


def asked_texts(question: ExplainRequest, subject: Subject) -> list[tuple[PromptRow, str]]:
    """Return the prompts and responses of the command or its file; none where the study's own are meant.

    Raises:
        ConfigError: There is no text, or one that cannot be used.
    """
    if question.file is not None:
        if question.prompt is not None or question.response is not None:
            raise ConfigError("--file and a text were both given", "give --file, or --prompt and --response")
        # With torch, which takes seconds to import.
        from pipeline.tasks.prompt_file import read_answered

        found = read_answered(question.file, "--file")
    elif question.prompt is not None or question.response is not None:
        found = [_given(question)]
    elif subject.study is None:
        raise ConfigError("there is no text to explain", "give --prompt and --response, or --file")
    else:
        found = []
    for row, response in found:
        _check_unicode(row.place, row.text + response)
    return found


def _given(question: ExplainRequest) -> tuple[PromptRow, str]:
    texts = {"--prompt": question.prompt, "--response": question.response}
    for name, text in texts.items():
        if not text or not text.strip():
            raise ConfigError(f"{name} is {'missing' if text is None else 'empty'}", "give --prompt and --response")
    from pipeline.tasks.prompt_file import PromptRow

    return PromptRow("the text", None, question.prompt or ""), question.response or ""


def _check_unicode(place: str, text: str) -> None:
    """Refuse what a shell or a file made of bytes that are no text; tokenizers would not take it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{place} holds {text[error.start]!a}, which is no character", "give UTF-8") from error
