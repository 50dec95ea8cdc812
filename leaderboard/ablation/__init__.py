"""The tables of ablations: what rows gain over their baseline, and what that is worth."""
