"""What every benchmark needs: records of what was measured, and work that is not repeated."""
