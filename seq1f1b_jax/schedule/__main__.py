"""The command has moved: an old command line is told the new name."""

import sys

if __name__ == "__main__":
    print("error: this command is now python -m seq1f1b_jax.explore", file=sys.stderr)
    sys.exit(2)
