"""The leakage audit: did outputs repeat references, do training and test data overlap, what was declared."""
