"""Builds the mini suite, byte for byte the same each time, from real data and drawn phantoms."""
