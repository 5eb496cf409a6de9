"""IFBench (Pyatkin et al., arXiv 2507.02833) on trained policies."""
