"""Run every command of README, docs and launch/ in a clone, in order, and print how long each took.

    python -m tests.journey FOLDER           as it is; some 40 minutes on two cores
    python -m tests.journey FOLDER --small   small models, a stand-in for what is downloaded

FOLDER must not exist; it becomes the clone. Without --small its environment is made by `make train`
(with $PYTHON), and `python` is the one in it.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from tests.journey.clone import Clone
from tests.journey.journey import journey


def main() -> int:
    """Run them; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    clone = Clone(options.folder.absolute(), small=options.small)
    ends = list(journey(clone, small=options.small, say=partial(print, flush=True)))
    print("\n".join(sorted(f"left behind: {name}" for name in clone.left_behind())))
    failed = [end for end in ends if end.status]
    for end in failed:
        print(f"\n$ {end.command.text}\n{end.output}", file=sys.stderr)
    print(f"{len(ends)} commands, {len(failed)} failed")
    return bool(failed or clone.left_behind())


if __name__ == "__main__":
    sys.exit(main())
