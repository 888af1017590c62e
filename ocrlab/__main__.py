"""`python -m ocrlab …`: the command line."""

import sys

from ocrlab.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
