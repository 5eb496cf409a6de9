"""What ``shapetune`` and ``python -m pipeline`` start: the command line, which can be stopped while it is imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from pipeline.runtime.signals import Interrupted, interruptible


def main() -> NoReturn:
    """Import the command line and run it; Ctrl+C in between ends with a line and no traceback."""
    try:
        with interruptible():
            from pipeline.cli import main as run

            run()
    except Interrupted as stop:
        print(f"error: {stop.message}", file=sys.stderr)
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
