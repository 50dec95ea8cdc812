"""The page of `medbench interpret`: what was measured of connectors, in figures and in words."""
