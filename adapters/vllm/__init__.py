"""A model that vLLM serves for the time of one run, from an environment of its own."""
