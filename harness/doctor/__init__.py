"""Self-tests that a user can run: does this installation say of perfect and useless models what it must?"""
