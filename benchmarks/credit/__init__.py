"""The credit engine beside the strongest peers: accuracy at equal evaluations, and seconds."""
