"""Batched generation for every local adapter."""
