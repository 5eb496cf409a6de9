"""The outer loop beside other searches, at equal trials."""
