"""Early stopping on curves of real trials: what it saves and what it costs."""
