"""LLaVA-Med 1.5 and 1.0, and what else has their checkpoint format."""
