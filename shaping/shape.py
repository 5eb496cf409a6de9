"""The shape: the frozen record that says where a response's reward falls, and travels everywhere.

    r_t = (1 - balance) * R * [t = T] + balance * sum_k weight_k * phi'_k,t

with ``weights`` on the simplex, ``0 <= balance <= 1`` and every closed credit ``phi'_k`` summing to ``R``
(``shaping.closure``), so that the token rewards of a response always sum to its score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from shaping.errors import ConfigError
from shaping.method_names import METHOD_NAMES

CLOSURES = ("last", "first", "spread")
UNITS_WITHIN_TURNS = ("token", "span", "sentence")
UNITS = (*UNITS_WITHIN_TURNS, "turn")
ABSENT = ("delete", "mask", "attention")
ESTIMATORS = ("auto", "exact", "kernel", "permutation")
HEADS = ("mean", "max")
# Up to the first all coalitions are always scored, up to the second where asked for or affordable.
ALWAYS_EXACT_UNITS = 8
MOST_EXACT_UNITS = 12
SIMPLEX_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Shape:
    """Where the reward falls, and the advantage settings without which that has no meaning.

    Attributes:
        weights: Credit method name to its share; shares are not negative and sum to 1.
        balance: Share of the reward that is spread; the rest stays on the last token.
        unit: What the coalition methods treat as one player: ``token``, ``span``, ``sentence`` or ``turn``. With
            ``turn`` every method's reward falls on the last tokens of the policy's turns.
        max_span: Longest span in tokens; longer pieces are cut.
        max_units: Most units of a response; neighbours are merged beyond it.
        absent: How the coalition methods take a unit away: ``delete`` its tokens, and those behind them move up;
            ``mask`` them with the reward model's mask token; or hide them from its ``attention``, so that all
            others keep their positions. Prefixes of a response are what they are, whatever this says.
        estimator: How Shapley values of more than 8 units are found: ``auto`` enumerates all coalitions of up to 12
            units where the budget allows it and otherwise samples pairs for a regression, ``exact`` enumerates
            always, ``kernel`` always samples for the regression, ``permutation`` samples orders.
        budget: Coalitions scored for one response by each sampling method.
        budget_tokens: The same as forwarded tokens of the response, with what the reward model adds to each
            coalition, prompts not counted; takes the place of ``budget``.
        attention_layer: The layer that ``attention`` reads, from 0, or below 0 from the last one backwards.
        attention_heads: How ``attention`` reduces the heads of that layer: ``mean`` or ``max``.
        gradient_steps: Points of the quadrature along which ``gradient`` integrates.
        closure: Where the residual ``R - sum_t phi_t`` goes: ``last`` token, ``first`` token (but for what was added to
            the reward model's score, which stays on the last), or ``spread`` evenly. Responses that may end early want
            ``first``: on the last token it is a price for ending.
        gamma: Discount. Below 1 the shape no longer preserves the optimal policy.
        gae_lambda: The ``lambda`` of generalised advantage estimation that the shape was tuned with.
        policy_preserving: Refuse what could change the optimal policy.

    Raises:
        ConfigError: A value is out of its range; the message names field, value and remedy.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"sparse": 1.0})
    balance: float = 1.0
    unit: str = "span"
    max_span: int = 4
    max_units: int = 12
    absent: str = "delete"
    estimator: str = "auto"
    budget: int = 64
    budget_tokens: int | None = None
    attention_layer: int = -1
    attention_heads: str = "mean"
    gradient_steps: int = 32
    closure: str = "last"
    gamma: float = 1.0
    gae_lambda: float = 0.95
    policy_preserving: bool = True

    def __post_init__(self) -> None:
        self._check_weights()
        # Adding zero turns -0.0 into 0.0; equal shapes must look and hash alike.
        weights = {name: float(weight) + 0.0 for name, weight in self.weights.items()}
        object.__setattr__(self, "weights", MappingProxyType(weights))
        for name in ("balance", "gamma", "gae_lambda"):
            _check_between(name, getattr(self, name), 0.0, 1.0)
            object.__setattr__(self, name, float(getattr(self, name)) + 0.0)
        if not isinstance(self.policy_preserving, bool):
            raise ConfigError(f"policy_preserving = {self.policy_preserving!r} is not true or false")
        self._check_options()
        if self.gamma < 1 and self.policy_preserving:
            raise ConfigError(
                f"gamma = {self.gamma} changes the optimal policy when the reward moves",
                "set gamma to 1, or policy_preserving to false if that is what you want",
            )

    def _check_options(self) -> None:
        for name in ("max_span", "max_units", "budget", "budget_tokens", "gradient_steps"):
            value = getattr(self, name)
            if name == "budget_tokens" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} = {value!r} is not a whole number of at least 1")
        layer = self.attention_layer
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise ConfigError(f"attention_layer = {layer!r} is not a whole number", "-1 is the last layer")
        choices = {
            "unit": UNITS,
            "absent": ABSENT,
            "closure": CLOSURES,
            "estimator": ESTIMATORS,
            "attention_heads": HEADS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} = {getattr(self, name)!r} is unknown", f"choose one of {', '.join(allowed)}")
        if self.estimator == "exact" and self.max_units > MOST_EXACT_UNITS:
            raise ConfigError(
                f"estimator = exact with max_units = {self.max_units} would score 2^{self.max_units} coalitions",
                f"set max_units to at most {MOST_EXACT_UNITS}, or estimator to auto",
            )

    def _check_weights(self) -> None:
        if not isinstance(self.weights, Mapping) or not all(isinstance(name, str) for name in self.weights):
            raise ConfigError(f"weights = {self.weights!r} is not a mapping", "write method: weight")
        if not self.weights:
            raise ConfigError("weights is empty", "give at least one method, such as sparse: 1.0")
        for name, weight in self.weights.items():
            if name not in METHOD_NAMES:
                known = ", ".join(sorted(METHOD_NAMES))
                raise ConfigError(f"weights: method {name!r} is unknown", f"choose from {known}")
            _check_between(f"weights.{name}", weight, 0.0, 1.0)
        total = math.fsum(self.weights.values())
        if abs(total - 1) > SIMPLEX_TOLERANCE:
            raise ConfigError(f"weights sum to {total:.6g}, not 1", "divide each by their sum")

    def __hash__(self) -> int:
        values = {**self.to_dict(), "weights": sorted(self.weights.items())}
        return hash(repr(values))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as plain values: a mapping proxy cannot be sent."""
        return (Shape.from_dict, (self.to_dict(),))

    def active_methods(self) -> dict[str, float]:
        """Return each method that really receives reward and its share of the whole; shares sum to 1."""
        shares = {name: self.balance * weight for name, weight in self.weights.items() if weight > 0}
        if self.balance < 1:
            shares["sparse"] = shares.get("sparse", 0.0) + 1 - self.balance
        return {name: share for name, share in sorted(shares.items()) if share > 0}

    def to_dict(self) -> dict[str, Any]:
        """Return the shape as plain values, in field order."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**values, "weights": dict(self.weights)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Shape:
        """Return the shape of ``to_dict``'s values.

        Raises:
            ConfigError: A key is unknown or a value out of range.
        """
        unknown = set(values) - {entry.name for entry in fields(cls)}
        if unknown:
            raise ConfigError(f"shape has unknown keys: {', '.join(sorted(unknown))}")
        return cls(**values)

    @classmethod
    def load(
        cls, path: str | Path, reward_model: object | None = None, accept_reward_model: str | None = None
    ) -> Shape:
        """Return the shape of an exported ``shape.json``.

        Args:
            path: The file.
            reward_model: What the shape will be used with: a reward model with an ``identity()``, or an identity;
                ``None`` does not check.
            accept_reward_model: The name of another reward model that shall serve in place of the tuned one.

        Raises:
            ConfigError: The file cannot be read, is of another version, was altered, or was tuned for another reward
                model.
        """
        from shaping.shape_file import ShapeFile

        file = ShapeFile.read(path)
        try:
            if reward_model is not None:
                file.check_reward_model(reward_model, accept_reward_model)
        except ConfigError as error:
            raise ConfigError(f"shape file {path}: {error.message}", error.hint) from error
        return file.shape

    def with_changes(self, **changes: Any) -> Shape:
        """Return a copy with the given fields changed and checked."""
        return replace(self, **changes)

    def describe(self) -> str:
        """Return the shape in one short line, for tables."""
        parts = [f"{share:.2f} {name}" for name, share in self.active_methods().items()]
        return f"{' + '.join(parts)}, lambda {self.gae_lambda:.2f}"


def check_layer(layer: int, layers: int, name: str) -> None:
    """Refuse an attention layer that a reward model does not have.

    Raises:
        ConfigError: ``layer`` is not among the ``layers``, counted from either end.
    """
    if not -layers <= layer < layers:
        raise ConfigError(
            f"attention_layer = {layer} does not exist in reward model {name} of {layers} layers",
            f"choose from 0 to {layers - 1}, or -1 for the last",
        )


def _check_between(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} = {value!r} is not a finite number")
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value} is not between {low:g} and {high:g}")
