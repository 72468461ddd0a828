"""The former name of the command; it names the new one and exits."""

import sys

if __name__ == "__main__":
    print("error: this command is now python -m seq1f1b_jax.explore", file=sys.stderr)
    sys.exit(2)
