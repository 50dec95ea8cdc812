"""`python -m medbench` is the command `medbench`."""

from medbench.harness.cli import main

if __name__ == "__main__":
    main()
