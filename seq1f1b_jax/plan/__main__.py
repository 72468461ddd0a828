"""Plan a run: `python -m seq1f1b_jax.plan` is `train.py plan`, and has two commands of its own.

python -m seq1f1b_jax.plan --config X.yaml --hardware h100-80g --devices 64
python -m seq1f1b_jax.plan profile --config X.yaml --to costs.json
python -m seq1f1b_jax.plan sweep --config X.yaml --chunks 1,2,4,8
"""

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "profile": "seq1f1b_jax.training.profile.command",
    "sweep": "seq1f1b_jax.training.sweep.command",
}
"""What measures, on the device at hand."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line; the exit status is that of `train.py`."""
    from importlib import import_module

    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        return import_module(COMMANDS[first]).main(arguments[1:], os.environ)
    return import_module("seq1f1b_jax.train").main(["plan", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
