"""Where test and training data overlap: texts, images, ids and whole items, in one pass over training data."""
