"""Numbers and states in words: what the page's template says about values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pipeline.report.data import Belief, ConfirmedArm, Estimate
from pipeline.report.run_record import Ratio, RunRecord, mean_of
from pipeline.trials.arm import Arm
from pipeline.trials.records import StopRecord
from search_spaces.base import Candidate, setting_words
from search_spaces.rivals import CRITIC
from shaping.certificate import Certificate
from shaping.shape import Shape

MISSING = "–"
METHOD_WORDS = {
    "sparse": "the whole score on the last token, as PPO from human feedback usually has it",
    "uniform": "equal parts for every token",
    "random": "random parts, a control",
    "prefix": "each token gets what the reward model's score changed by when it arrived",
    "attention": "parts in proportion to the reward model's attention",
    "gradient": "what the score changes along the way from mean embeddings to the tokens themselves",
    "shapley": "each span gets its average contribution to the score, over which other spans are present",
    "owen": "Shapley values of the tokens inside their spans",
    "kernel_shap": "Shapley values, estimated by a weighted regression",
    "lime": "coefficients of a local linear model of the score",
}

# What the search maximised, by its name in configs: in a sentence, and on an axis.
SEARCHED = {
    "final": "J",
    "curve": "the mean of J along the curve",
    "gain": "the gain in J over the sparse arm on the same seeds",
}
BREAKS = "breaks constraints"


def number(value: float, digits: int = 3) -> str:
    """Return a number with a true minus sign, as readers and screen readers expect it."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:z.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """Return a number that always carries its sign."""
    return number(value, digits) if value < 0 or math.isnan(value) else f"+{number(value, digits)}"


def estimate(value: Estimate | None, digits: int = 3) -> str:
    """Return ``mean ± standard error``, or the mean alone where one seed gives no error."""
    return MISSING if value is None else spread(value.mean, value.error, digits)


def spread(mean: float, deviation: float | None, digits: int = 3) -> str:
    """Return ``mean ± deviation``, or the mean alone where nothing is known of its error."""
    return number(mean, digits) + ("" if deviation is None else f" ± {number(deviation, digits)}")


def belief(value: Belief | None) -> str:
    """Return ``mean ± standard deviation`` of the model, or a mean that says it was only observed."""
    if value is None:
        return MISSING
    if not value.from_model:
        return f"{number(value.mean)} (observed)"
    return spread(value.mean, value.deviation)


def stop(value: StopRecord, total: int, objective: str = "final") -> str:
    """Return after how many steps a trial was stopped, and for what it would have reached."""
    projected = f"{signed(value.objective)} ± {number(value.deviation)}"
    return f"stopped after {value.steps} of {total} steps, on its way to {searched_label(objective)} {projected}"


def searched_label(objective: str) -> str:
    """Return the name of the values that the search compares; gains are counted from J."""
    return "mean J of curve" if objective == "curve" else "J"


def candidate(value: Candidate | None) -> str:
    """Return what a trial tried in words; a dash where it is not known."""
    return MISSING if value is None else value.describe()


def row(name: str, value: Shape) -> str:
    """Return what a row of tokens shows: a method is explained, a shape described."""
    return METHOD_WORDS[name] if value.active_methods() == {name: 1.0} else value.describe()


def arm_shape(arm: Arm) -> str:
    """Return an arm's shape in words, with the trainer's settings where they are not the study's."""
    critics = {
        "reward_model": "critic starts as the reward model",
        "value_head": "critic is a value head",
        "network": "critic is a network",
    }
    critic = [critics[arm.critic]] if arm.critic else []
    others = [setting_words(each) for each in arm.trainer.items() if each[0] != CRITIC]
    return "; ".join([arm.shape.describe(), *critic, *others])


def certificate(value: Certificate) -> str:
    """Return a certificate's two conclusions; one that saw no response has none of the first."""
    if value.responses == 0:
        return f"nothing checked, {'causal' if value.is_causal else 'not causal'}"
    discounted = "" if value.gamma == 1 else f", but discounted by gamma {value.gamma:g}"
    kept = f"sums kept{discounted}" if value.sums_kept else "SUMS BROKEN"
    return f"{kept}, {'causal' if value.is_causal else 'not causal'}"


def tiny(value: float) -> str:
    """Return an error size in powers of ten."""
    if math.isinf(value):
        return "∞"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}".replace("-", "−")


def error_size(value: float) -> str:
    """Return an error size as one writes it; an exact 0 has no power."""
    return "0" if value == 0 else tiny(value)


def moment(value: str) -> str:
    """Return a moment in ISO 8601 as one reads it, to the minute; as it is where it is none."""
    try:
        return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return value


def seconds(value: float | None) -> str:
    """Return a time in the unit in which it is read best."""
    if value is None:
        return MISSING
    for unit, size in (("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"


def amount(value: float | None) -> str:
    """Return a count with its thousands set apart."""
    return MISSING if value is None else f"{value:,.0f}"


def ratio(value: Ratio | None) -> str:
    """Return ``1.07 × [1.04, 1.10]``, or the mean alone where one pair gives no interval."""
    if value is None:
        return MISSING
    bounds = "" if value.seeds < 2 else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.mean:.2f} ×{bounds}"


def cost(value: Ratio, records: Sequence[RunRecord]) -> str:
    """Return what a run of the winner cost beside a sparse one, in one sentence."""
    credit = mean_of(records, lambda record: record.credit_per_response)
    read = "" if credit is None else f"; for credit the reward model read {amount(credit)} tokens a response"
    pairs = count(value.seeds, "paired seed")
    return f"Cost: {ratio(value)} the processor time of a sparse run, over {pairs}{read}."


def each_run(records: Sequence[RunRecord], value: Callable[[RunRecord], float | None], digits: int = 1) -> str:
    """Return the mean of a value over an arm's runs; a dash where it was not kept."""
    found = mean_of(records, value)
    return MISSING if found is None else f"{found:,.{digits}f}"


def steps(confirmed: ConfirmedArm, to_level: dict[str, int | None], total: int) -> str:
    """Return after how many steps an arm reached the level."""
    reached = to_level.get(confirmed.arm.name)
    return "not reached" if reached is None else f"{reached} of {total}"


def token(text: str) -> str:
    """Return a token's text with line breaks made visible; one without any text still needs a place to point at."""
    return text.replace("\r", "").replace("\n", "↵") or "∅"


def count(amount: int, noun: str, plural: str = "") -> str:
    """Return an amount with its noun."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def times(number_of: int) -> str:
    """Return how often something happened."""
    return {1: "once", 2: "twice"}.get(number_of, f"{number_of} times")
