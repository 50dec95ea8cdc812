"""Numbers of papers, to stand beside runs: read from files that name their source."""
