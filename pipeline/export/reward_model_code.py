"""The reward model of a study as Python that makes it again, in somebody else's trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import StudyConfig
from pipeline.tasks.model_settings import RewardSettings
from pipeline.tasks.models.pretrained import quantization_options
from pipeline.tasks.prompt_file import read_prompts
from pipeline.tasks.settings import PromptsSettings
from pipeline.trainers.base import Task
from shaping.reward_models import CausalRewardModel, RetokenizedRewardModel


@dataclass(frozen=True)
class RewardModelCode:
    """Statements that leave a ``reward_model``; the policy's ``tokenizer`` is there before them.

    Attributes:
        imports: Import statements.
        lines: The statements.
        has_identity: Whether it can be held against the shape file; otherwise it is accepted by its name.
        notes: What the code cannot say, for whoever exports.
    """

    imports: tuple[str, ...]
    lines: tuple[str, ...]
    has_identity: bool = True
    notes: tuple[str, ...] = ()

    def make_shaper(self) -> str:
        """Return the function ``make_shaper(tokenizer)``, for a module in which ``SHAPE`` is the shape's path."""
        taken = "" if self.has_identity else ", accept_reward_model=reward_model.name"
        body = (
            "# The reward model that the shape was tuned for; another one is refused.",
            *self.lines,
            f"shape = Shape.load(SHAPE, reward_model{taken})",
            "return Shaper(shape, reward_model, tokenizer)",
        )
        return "def make_shaper(tokenizer):\n" + "\n".join(f"    {line}" for line in body)


def causal_code(folder: str) -> RewardModelCode:
    """Return the code of a causal reward model whose tokens are the policy's and whose config holds its scale."""
    return RewardModelCode(
        ("from shaping import CausalRewardModel, Shape, Shaper",),
        (f"reward_model = CausalRewardModel.from_pretrained({folder!r})",),
    )


def reward_model_code(config: StudyConfig, task: Task | None, assets: Path | None) -> RewardModelCode:
    """Return the code of a study's reward model.

    Args:
        config: The study's.
        task: The study's, loaded; ``None`` where a trainer of one's own has it.
        assets: The folder of what was built for the task; ``None`` for nothing.
    """
    if task is None:
        words = f"the reward model that {config.trainer.function if config.trainer else ''} asks"
        refusal = f'raise NotImplementedError("make {_plain(words)}: see shaping.reward_models")'
        return RewardModelCode(
            ("from shaping import Shape, Shaper",),
            (refusal, "reward_model = None"),
            notes=("the study's trainer is your own: write its reward model into make_shaper",),
        )
    if not isinstance(config.task, PromptsSettings):
        assert assets is not None
        is_model = isinstance(task.reward_model, CausalRewardModel)
        return causal_code(str(assets / "reward_model")) if is_model else _of_task(config, assets)
    settings = config.task.reward_model
    makers = {"function": _function, "url": _service}
    found = next((make(settings) for name, make in makers.items() if getattr(settings, name)), None)
    found = found or _model(settings, task)
    reads_texts = settings.model is None or isinstance(task.reward_model, RetokenizedRewardModel)
    return replace(found, notes=found.notes + _notes_on_chats(config.task)) if reads_texts else found


def _of_task(config: StudyConfig, folder: Path) -> RewardModelCode:
    values = config.task.model_dump(mode="json")
    return RewardModelCode(
        (
            "from pipeline.tasks.registry import load_task",
            "from pipeline.tasks.settings import TaskSettings",
            "from pydantic import TypeAdapter",
            "from shaping import Shape, Shaper",
        ),
        (
            f"settings = TypeAdapter(TaskSettings).validate_python({values!r})",
            f"reward_model = load_task(settings, {str(folder)!r}).reward_model",
        ),
        notes=("the reward model is the task's own code: the trainer's machine needs all that shapetune depends on",),
    )


def _function(settings: RewardSettings) -> RewardModelCode:
    place, _, name = (settings.function or "").rpartition(":")
    file, scale = place.endswith(".py"), (settings.mean or 0.0, settings.deviation or 1.0)
    path = Path(place).resolve()
    module = path.stem if file else place
    scaled = f"[(score - {scale[0]!r}) / {scale[1]!r} for score in {name}(prompts, responses)]"
    called = name if scale == (0.0, 1.0) else f"lambda prompts, responses: {scaled}"
    options = f'separate=True, name="{_plain(path.name if file else place)}:{name}", mask_text={settings.mask_text!r}'
    return RewardModelCode(
        (*(("import sys",) if file else ()), "from shaping import Shape, Shaper, TextRewardModel"),
        (
            *((f"sys.path.insert(0, {str(path.parent)!r})",) if file else ()),
            f"from {module} import {name}",
            f"reward_model = TextRewardModel({called}, tokenizer, {options})",
        ),
        has_identity=False,
        notes=("a function has no weights to recognise it by: see to it that it is the study's",),
    )


def _service(settings: RewardSettings) -> RewardModelCode:
    scale = (settings.mean or 0.0, settings.deviation or 1.0)
    asked = settings.service.model_dump(mode="json")
    called = f"[(score - {scale[0]!r}) / {scale[1]!r} for score in service(prompts, responses)]"
    options = f"separate=True, texts_per_call=service.texts_at_once, name=service.url, mask_text={settings.mask_text!r}"
    return RewardModelCode(
        (
            "from pipeline.tasks.custom.service import RewardService",
            "from pipeline.tasks.model_settings import ServiceSettings",
            "from shaping import Shape, Shaper, TextRewardModel",
        ),
        (
            f"service = RewardService({settings.url!r}, ServiceSettings(**{asked!r}), 'reward_model')",
            f"reward_model = TextRewardModel(lambda prompts, responses: {called}, tokenizer, {options})",
        ),
        has_identity=False,
        notes=(
            "a server has no weights to recognise it by: see to it that it serves the study's model",
            "the trainer's machine needs all that shapetune depends on, and a way to the server",
        ),
    )


def _model(settings: RewardSettings, task: Task) -> RewardModelCode:
    seen: Any = task.reward_model
    through = isinstance(seen, RetokenizedRewardModel)
    inner = seen.inner if through else seen
    kind, revision = type(inner).__name__, "" if settings.revision is None else f", revision={settings.revision!r}"
    source = f"{settings.model!r}{revision}, trust_remote_code={settings.trust_remote_code}"
    scale = f"mean={inner.mean!r}, deviation={inner.deviation!r}, name={inner.name!r}"
    mask = "" if settings.mask_token_id is None else f", mask_token_id={settings.mask_token_id}"
    # The library would load weights as they were saved, whatever the study had.
    options = f"dtype={settings.dtype!r}, use_safetensors=True"
    if settings.attn_implementation is not None:
        options += f", attn_implementation={settings.attn_implementation!r}"
    if settings.quantization is not None:
        options += f", quantization_config=BitsAndBytesConfig(**{quantization_options(settings.quantization)!r})"
    lines = [f"model = AutoModelForSequenceClassification.from_pretrained({source}, {options})"]
    if through:
        lines.append(f"own_tokenizer = AutoTokenizer.from_pretrained({source})")
    if settings.kind == "encoder":
        options = f"label={settings.label!r}, pair={settings.pair!r}, {scale}{mask}"
        lines.append(f"reward_model = {kind}(model, own_tokenizer, {options})")
    else:
        lines.append(f"reward_model = {kind}(model, {scale}, eos_token_id={inner.eos_token_id!r}{mask})")
    if through:
        options = f"framed={seen.framed!r}, eos_token_id={seen.eos_token_id!r}"
        options += f", more_end_ids={seen.more_end_ids!r}" if seen.more_end_ids else ""
        lines.append(f"reward_model = RetokenizedRewardModel(reward_model, own_tokenizer, tokenizer, {options})")
    names = sorted({kind, "Shape", "Shaper"} | ({"RetokenizedRewardModel"} if through else set()))
    automatic = ["AutoModelForSequenceClassification", *(["AutoTokenizer"] if through else [])]
    automatic += ["BitsAndBytesConfig"] if settings.quantization is not None else []
    return RewardModelCode(
        (f"from transformers import {', '.join(automatic)}", f"from shaping import {', '.join(names)}"),
        tuple(lines),
    )


def _notes_on_chats(settings: PromptsSettings) -> tuple[str, ...]:
    if all(row.messages is None for row in read_prompts(settings.prompts, "task.prompts", most=settings.max_prompts)):
        return ()
    return (
        "the study's prompts are chats, of which the reward model was given its own form: have make_shaper do the same "
        "(prompt_text of RetokenizedRewardModel: from the text of a prompt's tokens to what the reward model reads)",
    )


def _plain(words: str) -> str:
    return "".join(letter if letter.isalnum() or letter in " ._-/:" else "_" for letter in words)
