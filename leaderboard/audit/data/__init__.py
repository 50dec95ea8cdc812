"""Do test and training data overlap, whether prepared here, given by the user or declared by a model?"""
