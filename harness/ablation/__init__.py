"""Ablations: a grid of trainings that are trained, answered and scored, each once."""
