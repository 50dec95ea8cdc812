"""What a model's declared training data hold of the test items, by fingerprint, version and language."""
