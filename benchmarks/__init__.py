"""Side-by-side measurements; each writes a table and ``results/NAME.json``."""
