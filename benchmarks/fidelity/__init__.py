"""Which credit method says the truth about tokens, at what cost, and whether that makes a policy learn faster."""
