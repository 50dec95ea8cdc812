"""Predictions that somebody else made: read from any of several formats, scored by our protocols."""
