"""The 12 benchmarks of medbench: declarations, data, metrics."""
