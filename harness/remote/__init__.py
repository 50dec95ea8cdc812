"""Served models in a run: what is asked when, how many at once, and again how often."""
