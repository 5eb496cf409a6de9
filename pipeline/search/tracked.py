"""What the search is told of a trial beside its objective. Without Ax, which takes seconds to import."""

from __future__ import annotations

from pipeline.trials.results import Metrics
from shaping.certificate import Certificate

TRACKED = ("reward", "kl_nats", "gold_reward", "certificate_error")


def tracked_values(metrics: Metrics, certificate: Certificate) -> dict[str, float]:
    """Return what a result tells beside its objective: means of its metrics, and the certificate's error."""
    means = {name: metrics[name][0] for name in TRACKED if name in metrics}
    return {**means, "certificate_error": certificate.largest_error}
