"""One module per dataset family: its native layout in, samples out."""
