"""What the certificates of a study say together: whether any shape changed a total, and what controls ran beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.settings import ConstraintSettings
from pipeline.report import words
from pipeline.report.data import ReportData, TrialRow
from pipeline.report.run_record import RunRecord
from pipeline.study.verdict import TUNED
from pipeline.trials.arm import WINNER
from search_spaces import is_without_credit
from shaping.certificate import Certificate
from shaping.method_names import SPARSE, UNIFORM

REFUSED = "certificate"
RANDOM = "random"
# What each control answers, in the order in which a doubt would come up.
CONTROLS = {
    SPARSE: "the whole score on the last token, lambda as in the config: what training does without any shaping",
    TUNED[0]: "the same with lambda 1: whether a shape wins only because it lets a reward travel further back",
    TUNED[1]: "the same with a critic that starts as the reward model: whether a shape wins only because it lets the "
    "policy know the reward model's view of unfinished responses",
    TUNED[
        2
    ]: "the same with the winner's lambda: whether a shape wins only because small lambdas go with knowing that view",
    UNIFORM: "equal parts for every token at the winner's lambda: whether it is enough that there is reward "
    "everywhere, wherever it is earned",
    RANDOM: "random parts that add up to the score: whether it matters at all where the reward falls",
}
# Of a study that searched its trainer's settings, too.
FOUND = "the best of its kind that the search found: whether a shape wins only because of how its learner is set"
# Those that are a credit method, which a trial may have alone under any name.
CREDITS = (UNIFORM, RANDOM)


@dataclass(frozen=True)
class Control:
    """An arm that was run to rule something out.

    Attributes:
        name: The arm's, or the method's.
        purpose: What it controls for.
        ran: Where it ran, in words.
    """

    name: str
    purpose: str
    ran: str


@dataclass(frozen=True)
class Preservation:
    """All certificates of a study together.

    Attributes:
        headline: The finding in one sentence.
        is_kept: Whether everything that was checked kept its sum; false where nothing was checked.
        certified: Trials with a certificate, by index.
        controls: Those that ran.
        constraints: What the search's winner had to keep to, in words.
    """

    headline: str
    is_kept: bool
    certified: tuple[tuple[TrialRow, Certificate], ...]
    controls: tuple[Control, ...]
    constraints: tuple[str, ...]


def preservation(data: ReportData) -> Preservation:
    """Return what the study's certificates say together."""
    runs = [run for trial in data.trials for run in trial.records]
    runs += [run for confirmed in data.confirmed for run in confirmed.result.records]
    # Of a refused run on fresh seeds nothing but its failure is kept beside the others.
    refused = sum(failure.reason == REFUSED for failure in data.confirmation_failures)
    certified = [(trial, found) for trial in data.trials if (found := trial.certificate) is not None]
    headline, is_kept = _headline(runs, refused)
    return Preservation(
        headline, is_kept, tuple(certified), _controls(data), _constraints(data.config.search.constraints)
    )


def causes(certificate: Certificate) -> str:
    """Return whether a shape's credit is causal, and if not, because of which methods."""
    looking_ahead = [name for name, causal in certificate.causal.items() if not causal]
    return f"not causal: {', '.join(looking_ahead)}" if looking_ahead else "causal"


def sums(certificate: Certificate) -> str:
    """Return in words whether a shape kept the totals of the responses that were checked."""
    if certificate.responses == 0:
        return "nothing checked"
    if certificate.return_preserving:
        return "kept"
    return "BROKEN" if certificate.gamma == 1 else f"BROKEN: discounted, gamma {certificate.gamma:g}"


def _headline(runs: Sequence[RunRecord], refused: int) -> tuple[str, bool]:
    checked = [run.certificate for run in runs if run.certificate.responses]
    broken = sum(not certificate.return_preserving for certificate in checked) + refused
    silent = len(runs) - len(checked)
    if not checked and not broken:
        return "No response has been checked, so nothing is certified.", False
    error = words.error_size(max((certificate.largest_error for certificate in checked), default=0.0))
    amount = f"{_each(checked)} checked in {words.count(len(checked) + refused, 'run')}, largest relative error {error}"
    if broken:
        return f"{amount}: {words.count(broken, 'run')} changed a total.", False
    unsaid = f" {words.count(silent, 'run')} certified nothing." if silent else ""
    return f"{amount}: no shape changed a total.{unsaid}", not silent


def _each(checked: Sequence[Certificate]) -> str:
    amounts = {certificate.responses for certificate in checked}
    if len(amounts) == 1:
        (amount,) = amounts
        return f"{words.count(amount, 'response')} a run"
    return f"{min(amounts, default=0):,} to {max(amounts, default=0):,} responses a run"


def _controls(data: ReportData) -> tuple[Control, ...]:
    fresh = {confirmed.arm.name: len(confirmed.result.seeds) for confirmed in data.confirmed}
    searched = data.trials_in("completed")
    found = []
    for name, purpose in CONTROLS.items():
        of = [trial for trial in searched if trial.arm == name or (name in CREDITS and _credits(trial) == [name])]
        places = [words.count(fresh[name], "fresh seed")] if name in fresh else []
        places += [f"in the search as {words.count(len(of), 'trial')}"] if of else []
        if places:
            found.append(Control(name, purpose, " and ".join(places)))
    found += [
        Control(each.arm.name, FOUND, words.count(fresh[each.arm.name], "fresh seed"))
        for each in data.confirmed
        if data.config.space.trainer and each.arm.name not in (WINNER, *CONTROLS) and is_without_credit(each.arm.shape)
    ]
    return tuple(found)


def _credits(trial: TrialRow) -> list[str]:
    return list(trial.tried.shape.active_methods()) if trial.tried else []


def _constraints(settings: ConstraintSettings) -> tuple[str, ...]:
    said = {
        "at most {:g} nats of KL at the end of training": settings.kl_nats,
        "at most {:g} times the KL of the sparse arm": settings.kl_over_sparse,
        "a largest relative error of at most {:g}": settings.certificate_error,
    }
    return tuple(text.format(limit) for text, limit in said.items() if limit is not None)
