"""``python -m benchmarks.outer``."""

from benchmarks.outer.comparison import main

if __name__ == "__main__":
    main()
