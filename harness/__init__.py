"""The run: plan, generate, record, score, summarise."""
