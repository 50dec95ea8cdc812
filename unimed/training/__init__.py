"""Training of Uni-Med: a recipe, a corpus, a loop."""
