"""The papers' methods against each other and against the study's winner, at equal scale, with all controls."""
