"""One GPU: what each part of a run takes of it."""
