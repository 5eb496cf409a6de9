"""What a trial in the database tells a reader who has neither the study's folder nor its space."""

from __future__ import annotations

# Metrics: the mean over the seeds, and what each is called by its seed.
OBJECTIVE, SEED = "J", "J_seed_"
# Of trials that were stopped: what they would have reached, as it was told, and how uncertain that is.
PROJECTED, DEVIATION = "J_projected", "J_projection_deviation"
# Which study it is and who began it, among an experiment's properties.
IDENTITY = "shapetune"
# Among what Ax calls a trial's run metadata.
SHAPE, TRAINER, ORIGIN, REASON = "shape", "trainer", "origin", "reason"
# The same: set where the trial's result was taken over from an earlier study.
TAKEN_OVER = "earlier study"
LONGEST_TEXT = 2_000


def plain_text(text: str) -> str:
    """Return a text that every database takes and every terminal shows as text: no control characters, not too long.

    PostgreSQL refuses NUL characters and halves of surrogate pairs, which messages of a user's code may hold.
    """
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST_TEXT])
