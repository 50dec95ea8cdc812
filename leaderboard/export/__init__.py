"""Results for the world outside: what may leave the machine, and in which formats."""
