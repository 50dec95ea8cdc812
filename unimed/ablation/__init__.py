"""The rows of the paper's Tables 2 and 5 as recipes."""
