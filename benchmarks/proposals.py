"""What a proposal of the outer loop costs, after how many trials: processor seconds, its database and all.

    python -m pip install 'shapetune[bench]'
    python -m benchmarks.proposals

Studies in the quickstart's space on the replay landscape of ``benchmarks.outer``, every trial but the baselines and
three proposed by the model, stored in a SQLite file as real studies are. Alone on one thread: processors that share
their caches take more seconds for the same work.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common.record import current_commit, write
from benchmarks.outer.comparison import claim_table
from benchmarks.outer.problems import SEEDS, SPACE, landscape, row_of
from benchmarks.outer.regret import median_claim
from pipeline.config.settings import SearchSettings
from pipeline.runtime.logging import quiet_libraries
from pipeline.search.outer_loop import OuterLoop
from search_spaces import StudySpace

AFTER, PROPOSALS = (25, 50, 100), 5


def seconds_of_proposals(seed: int, trials: int) -> list[float]:
    """Return the processor seconds of every proposal of one study, in order."""
    observe, found = landscape("replay").observer(seed), []
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        outer = OuterLoop(
            "benchmark",
            StudySpace(SPACE),
            Path(folder) / "ax.db",
            SearchSettings(trials=trials, seeds=SEEDS, seed=seed),
        )
        while not outer.finished():
            started = time.process_time()
            proposal = outer.ask()
            found.append(time.process_time() - started)
            assert proposal is not None
            outer.tell(proposal.index, dict(zip(SEEDS, observe(row_of(proposal.shape)), strict=True)), {})
    return found


def main() -> None:
    """Time them and write ``results/proposals.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=3)
    options, commit = parser.parse_args(), current_commit()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    studies = [seconds_of_proposals(seed, max(AFTER) + PROPOSALS) for seed in range(options.studies)]
    measured = {trials: [each for study in studies for each in study[trials : trials + PROPOSALS]] for trials in AFTER}
    claims = [median_claim(f"outer.proposal_cpu_seconds_{trials}", each) for trials, each in measured.items()]
    write("proposals", claims, claim_table(claims), {"studies": options.studies, "seconds": studies}, commit)


if __name__ == "__main__":
    main()
