"""Several processes that answer one run: on the GPUs of a machine, its processors, or the machines of a Ray cluster."""
