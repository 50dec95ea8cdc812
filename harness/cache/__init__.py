"""The cache of answers: what a model said to a request is not asked again by another run."""
