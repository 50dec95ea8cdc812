"""Tools of the people who work on medbench; none of them is installed."""
