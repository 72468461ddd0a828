"""Start the processes of a run on this machine, watch them, start them again.

    python -m seq1f1b_jax.launch --processes 4 --restarts 3 -- train.py --config gpu8_2.7b_32k

Binds the loopback address only. Needs no JAX itself.
"""

import os
import sys
from collections.abc import Sequence

from seq1f1b_jax.config import UserError
from seq1f1b_jax.launch.launch import launch
from seq1f1b_jax.launch.options import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: of the command line; those of the process unless given.

    Returns:
      The exit status: 2 after one line about bad input, else that of `launch`.
    """
    try:
        return launch(parse(sys.argv[1:] if arguments is None else arguments), os.environ)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
