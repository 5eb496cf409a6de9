"""Why an attempt under Ray ended without a result."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import ray

from pipeline.trials.failures import (
    HUNG,
    NODE_LOST,
    OUT_OF_MEMORY,
    WORKER_DIED,
    Failure,
    note_failure,
)
from pipeline.trials.types import Job
from pipeline.trials.watchdog import silence

# A node that does not answer for so long is gone.
ANSWER_SECONDS = 5.0
# What Ray writes about a worker that is gone, and what that is called here.
DEATHS = {
    "running low on memory": OUT_OF_MEMORY,
    "memory pressure": OUT_OF_MEMORY,
    "node has died": NODE_LOST,
    "node was terminated": NODE_LOST,
}
# Ray's first words of an exception that the worker raised, and noted itself.
RAISED = re.compile(r"(\x1b\[\d+m)?ray::")
# Tune begins each failed attempt of a trial with such a line.
ATTEMPT = re.compile(r"^Failure # \d+ \(occurred at [^)\n]*\)\n", re.MULTILINE)
ACTOR_FIELDS = ("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:")


def lost_attempt(trial: Any, job: Job, stall_minutes: float) -> Failure:
    """Return why a trial's last attempt failed: as its worker noted it, or from what Ray says of a worker that is gone.

    What no worker noted is noted here.

    Args:
        trial: Tune's.
        job: What it ran.
        stall_minutes: Silence after which a worker counts as hung.
    """
    said = _said_of(trial)
    lost = _lost_node(trial, said)
    stacks = job.files.stall_file(job.seeds)
    noted = [attempt for attempt in job.files.attempts() if attempt.seeds == job.seeds]
    if stacks.exists() and stacks.stat().st_size:
        failure = Failure(HUNG, silence(stall_minutes), stacks.read_text(encoding="utf-8", errors="replace"))
        stacks.unlink()
    elif RAISED.match(said) and noted:
        return Failure(noted[-1].reason, noted[-1].detail)
    elif lost:
        failure = Failure(NODE_LOST, lost, said)
    else:
        reason = next((reason for sign, reason in DEATHS.items() if sign in said), WORKER_DIED)
        failure = Failure(reason, _last_words(said), said)
    note_failure(job, failure)
    return failure


def _said_of(trial: Any) -> str:
    """Return what Ray said of a trial's last failed attempt.

    Tune's own ``get_error`` reads a copy that is made later: it has nothing of a first failure, and of a second one
    what the first was.
    """
    file = Path(trial.error_file or "")
    said = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return str(ATTEMPT.split(said)[-1])


def _lost_node(trial: Any, said: str) -> str:
    """Return a line about the trial's node if it is gone; Ray, which waits for heartbeats, may not know it yet."""
    node_id = (trial.last_result or {}).get("node")
    nodes: list[dict[str, Any]] = ray.nodes()
    node = next((node for node in nodes if node["NodeID"] == node_id), None)
    if node is None or RAISED.match(said):
        return ""
    address = (str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))
    try:
        if node["Alive"]:
            socket.create_connection(address, timeout=ANSWER_SECONDS).close()
            return ""
    except OSError:
        pass
    return f"node {address[0]} ({str(node_id)[:12]}) is gone"


def _last_words(said: str) -> str:
    """Return the cause and the process of a message that Ray spreads over lines."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    where = " ".join(line.replace(": ", " ") for line in lines if line.startswith(("pid:", "ip:")))
    causes = [line for line in lines[1:] if not line.startswith(ACTOR_FIELDS)] or lines[:1]
    cause = causes[0] if causes else "the worker ended without a result"
    return f"{cause.split('. ')[0].rstrip('.')} ({where})" if where else cause.split(". ")[0].rstrip(".")
