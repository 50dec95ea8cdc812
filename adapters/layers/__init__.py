"""What RadFM and Med-Flamingo have in common: the perceiver, and how weights and texts are read."""
