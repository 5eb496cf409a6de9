"""The sections of a study's config: what varies, the outer loop, the confirmation, where trials run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from pipeline.config.database_url import check_url
from pipeline.config.trainer_space import flat
from pipeline.config.yaml_text import as_numbers
from pipeline.runtime.section import LARGEST_SEED, Section
from pipeline.trainers.ppo.settings import LARGEST
from search_spaces import SPACES
from shaping.shape import UNITS_WITHIN_TURNS


class SpaceSettings(Section):
    """What a study may vary."""

    name: str = Field(
        "credit_mix",
        description="balance, credit_mix, full, or package.module:factory or file.py:factory for a space of one's own.",
    )
    methods: tuple[str, ...] = Field(
        ("prefix", "attention", "shapley"), min_length=1, description="Credit methods that are mixed."
    )
    gae_lambda: tuple[float, float] = Field((0.0, 1.0), description="Bounds of lambda; equal bounds fix it.")
    balance: tuple[float, float] = Field((0.0, 1.0), description="Bounds of the methods' share; sparse has the rest.")
    units: tuple[str, ...] = Field(UNITS_WITHIN_TURNS, min_length=1, description="Units to choose from, in space full.")
    budget: tuple[int, int] = Field((16, 128), description="Bounds of the coalitions of a response, in space full.")
    trainer: dict[str, Any] = Field(
        default_factory=dict,
        # Studies from before it existed are told by what their config says.
        exclude_if=lambda settings: not settings,
        description="Settings of the trainer that are searched, too: ppo.critic: [value_head, network], or "
        "ppo.learning_rate: {low: 2.0e-4, high: 1.6e-3, log: true}.",
    )

    @field_validator("trainer", mode="before")
    @classmethod
    def _settings(cls, value: Any) -> dict[str, Any]:
        return flat(value)

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SPACES and ":" not in value:
            known = ", ".join(sorted(SPACES))
            raise ValueError(f"space {value!r} is unknown; choose one of {known}, or write package.module:factory")
        return value


class ShapeSettings(Section):
    """The part of every shape that the study does not search; see ``shaping.shape.Shape``."""

    unit: Literal["token", "span", "sentence"] = Field("span", description="A player of the coalition methods.")
    max_span: int = Field(4, ge=1, description="Longest span, in tokens.")
    max_units: int = Field(6, ge=1, description="Most units of a response; beyond it neighbours are merged.")
    absent: Literal["delete", "mask", "attention"] = Field("delete", description="How a unit is taken away.")
    estimator: Literal["auto", "exact", "kernel", "permutation"] = Field(
        "auto", description="How Shapley values of more than 8 units are found."
    )
    budget: int = Field(16, ge=4, le=1_000_000, description="Coalitions scored for a response by each sampling method.")
    budget_tokens: int | None = Field(None, ge=1, description="Forwarded response tokens, in place of budget.")
    attention_layer: int = Field(-1, description="Layer that attention reads; -1 is the last.")
    attention_heads: Literal["mean", "max"] = Field("mean", description="How the heads of that layer are reduced.")
    gradient_steps: int = Field(32, ge=1, le=100_000, description="Points along which gradient integrates.")
    closure: Literal["last", "first", "spread"] = Field(
        "last", description="Where what credit leaves of a score goes; first where a study's responses may end early."
    )
    gamma: float = Field(1.0, gt=0, le=1, description="Discount; below 1 the optimal policy may change.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of the baselines that the study does not tune.")
    policy_preserving: bool = Field(True, description="Refuse all that could change the optimal policy.")


class ObjectiveSettings(Section):
    """What J is: the reward on held-out prompts, less the price of the KL that it took."""

    kl_price: float | None = Field(
        None,
        ge=0,
        le=LARGEST,
        description="Price of a nat of KL(policy || reference) in J; unset is ppo.kl_coef, whatever trials train with.",
    )


class ConstraintSettings(Section):
    """What the winner must keep to, modelled like J itself. A limit that is unset does not bind."""

    kl_nats: float | None = Field(
        None, gt=0, le=1e9, description="Most KL(policy || reference) at the end of training."
    )
    kl_over_sparse: float | None = Field(None, gt=0, le=1e9, description="The same as a multiple of the sparse arm's.")
    certificate_error: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Largest miss of a response's score; for studies that need not preserve the policy.",
    )


class EarlyStoppingSettings(Section):
    """When a trial is given up for its curve."""

    worst_percent: float = Field(40.0, gt=0, lt=100, description="Trials among the worst so many percent are stopped.")
    least_share: float = Field(
        0.5, ge=0, le=10_000, description="Steps before which nothing stops, over one seed's steps."
    )
    least_trials: int = Field(5, ge=3, description="Trials that must have ended before one is stopped.")


class SearchSettings(Section):
    """The outer loop."""

    trials: int = Field(12, ge=1, le=1_000_000, description="Trials in all, baselines included; may be raised later.")
    sobol_trials: int = Field(3, ge=0, le=1_000_000, description="Space-filling trials after the baselines.")
    seeds: tuple[int, ...] = Field((0, 1), min_length=1, description="One run each, the same ones for every trial.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the proposals.")
    objective: Literal["final", "curve", "gain"] = Field(
        "final",
        description="J on held-out prompts at the end; the mean of J along the training curve; or the first less the "
        "sparse arm's on the same seeds.",
    )
    model: Literal["gp", "saasbo"] = Field("gp", description="saasbo is for many parameters; needs an extra.")
    constraints: ConstraintSettings = Field(
        default_factory=ConstraintSettings, description="Limits that the winner keeps to."
    )
    early_stopping: EarlyStoppingSettings | None = Field(None, description="Unset stops no trial.")
    warm_start: Path | None = Field(None, description="Folder of an earlier study to start from.")
    first_arms: int = Field(3, ge=0, description="Best arms of an earlier study of another task that are tried first.")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return distinct_seeds(value)

    @field_validator("warm_start")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Workers have working folders of their own.
        return None if value is None else Path(os.path.expanduser(value)).absolute()


class ConfirmSettings(Section):
    """The best arms and their baselines, run again on seeds that the search never saw."""

    seeds: tuple[int, ...] = Field((100, 101, 102, 103), description="Fresh seeds; none at all skips the confirmation.")
    top: int = Field(1, ge=1, le=10, description="Arms of the search that are confirmed, the winner among them.")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return distinct_seeds(value)


class TrackingSettings(Section):
    """Where curves of runs go beside the study's own files."""

    to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="TensorBoard's files in the run's folder, Weights & Biases, MLflow."
    )
    project: str | None = Field(
        None, min_length=1, description="W&B's project and MLflow's experiment; unset takes the study's name."
    )


class ExecutorSettings(Section):
    """Where trials run."""

    name: Literal["ray", "local"] = Field("ray", description="Ray's workers, or this process.")
    slots: int = Field(2, ge=1, le=1024, description="Runs side by side; local runs one.")
    cpus: int = Field(1, ge=1, le=4096, description="Cores and threads of a run.")
    gpus: float | None = Field(
        None, ge=0, le=4096, description="GPUs of a run, or a fraction; unset shares what Ray finds."
    )
    address: str = Field("local", min_length=1, description="Ray cluster: local starts one for the study.")
    retries: int = Field(3, ge=0, le=100, description="Further attempts of a run that failed, from its checkpoint.")
    stall_minutes: float = Field(60.0, gt=0, le=1_000_000, description="Silence after which a run counts as hung.")
    checkpoints: str | None = Field(
        None,
        min_length=1,
        exclude_if=lambda address: address is None,
        description="Address (fsspec) of a folder for runs' checkpoints; unset keeps them in the study's folder.",
    )

    @field_validator("gpus")
    @classmethod
    def _whole_or_a_share(cls, value: float | None) -> float | None:
        # Ray shares one GPU, but gives several only whole.
        if value is not None and value > 1 and value != int(value):
            raise ValueError("more than one GPU must be a whole number of them")
        return value


class CustomTrainerSettings(Section):
    """A custom trainer in place of the built-in PPO; see ``pipeline.trainers.custom``."""

    function: str = Field(pattern=r"^.+:.+$", description="package.module:name or file.py:name.")
    options: dict[str, Any] = Field(default_factory=dict, description="Whatever the function reads.")

    @field_validator("options", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return as_numbers(value)


class StorageSettings(Section):
    """Where the search's trials are kept: a SQLite file in the study's folder, or a PostgreSQL database."""

    # Errors and tracebacks repeat what they refuse, and an address may hold a password.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str | None = Field(None, description="postgresql+psycopg://USER@HOST:PORT/DATABASE, without a password.")
    patience_seconds: float = Field(300, ge=0, le=1e9, description="How long a lost connection is tried again.")

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value).render_as_string()


def distinct_seeds(value: tuple[int, ...]) -> tuple[int, ...]:
    """Return the seeds.

    Raises:
        ValueError: One stands there twice, is negative, or is larger than all libraries take.
    """
    if len(set(value)) != len(value) or any(not 0 <= seed <= LARGEST_SEED for seed in value):
        raise ValueError(f"seeds {list(value)} must be distinct, not negative and at most {LARGEST_SEED}")
    return value
