"""Where a model loses what a picture shows: states at every place of it, probes on them, and tests between places."""
