"""`python -m medbench` is the command `medbench`, which an interrupt ends with a sentence from its first import on."""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    try:
        if "_MEDBENCH_LINE" in os.environ:
            # A shell asks what may come next.
            from medbench.harness.completion.answers import answer_tab

            sys.stdout.write(answer_tab())
            sys.exit(0)
        from medbench.harness.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        # Nothing of ours was imported yet, or all was done: there is nothing to be kept or to be told of it.
        sys.stderr.write("Error: Interrupted.\n")
        sys.stderr.flush()
        os._exit(130)


if __name__ == "__main__":
    main()
