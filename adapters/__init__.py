"""Models: how each one reads a sample, sees an image and is understood."""
