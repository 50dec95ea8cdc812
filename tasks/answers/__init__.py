"""What a model's words mean: a choice out of a list, a box in the space that the model writes in."""
