"""Shell completion: an index of all that can be completed, what answers a tab from it, and a script for each shell."""
