"""What a run predicts of itself before it compiles, kept as `prediction.json` in its folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.host.files import replace_file

PREDICTION = "prediction.json"
VERSION = 1
"""Of the file; a further field does not change it, another meaning of a field does."""


@dataclass(frozen=True)
class Prediction:
    """A step as predicted; bytes are those of one device.

    Attributes:
      num_params: parameters of the whole model.
      tokens_per_step: positions of all sequences of a step.
      device: what a user calls it.
      num_devices: of the mesh.
      step_bytes: what a step allocates, by name of the term.
      state_bytes: parameters and optimizer.
      bubble_fraction: of the step's time, in which devices wait.
      present_bytes: memory that is there, for `sharing` devices together; None: not known.
      sharing: 1 where a device has memory of its own.
      host_bytes: host memory, pinned.
      step_seconds: time of a step by name of the term; empty where it is not predicted.

    Example:
      >>> prediction = Prediction(
      ...     num_params=10**6, tokens_per_step=2048, device="CPU", num_devices=1,
      ...     step_bytes={"ring": 600, "cache": 300}, state_bytes=100, bubble_fraction=0.25,
      ... )
      >>> prediction.total_bytes
      1000
    """

    num_params: int
    tokens_per_step: int
    device: str
    num_devices: int
    step_bytes: Mapping[str, float]
    state_bytes: float
    bubble_fraction: float
    present_bytes: float | None = None
    sharing: int = 1
    host_bytes: float = 0
    step_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_bytes(self) -> float:
        """Of a device, state and step."""
        return self.state_bytes + sum(self.step_bytes.values())


def write_prediction(folder: Path, prediction: Prediction) -> None:
    """Write the file, whole or not at all; an earlier one is replaced.

    Raises:
      UserError: the folder cannot be written.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> given = Prediction(10**6, 2048, "CPU", 4, {"ring": 600}, 100, 0.25)
      >>> with TemporaryDirectory() as folder:
      ...     write_prediction(Path(folder), given)
      ...     read_prediction(Path(folder)) == given
      True
    """
    tree = {"version": VERSION} | asdict(prediction)
    replace_file(folder / PREDICTION, (json.dumps(tree, indent=1) + "\n").encode())


def read_prediction(folder: Path) -> Prediction | None:
    """What the run in a folder has predicted; None where it has kept nothing.

    Fields that this version does not know are left out.

    Raises:
      UserError: the file cannot be read, is of another version, or not what a run writes.
    """
    path = folder / PREDICTION
    if not path.exists():
        return None
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError):
        tree = None
    if isinstance(tree, dict) and tree.get("version", VERSION) != VERSION:
        raise UserError(
            f"{path} is of version {tree['version']}, and this code reads version {VERSION}"
        )
    found = _parsed(tree)
    if found is None:
        raise UserError(f"{path} is not what a run writes; move it away")
    return found


def _parsed(tree: Any) -> Prediction | None:
    known = {each.name for each in fields(Prediction)}
    try:
        found = Prediction(**{name: value for name, value in tree.items() if name in known})
    except (AttributeError, TypeError):  # no tree, or fields are missing
        return None
    return found if _is_whole(found) else None


def _is_whole(prediction: Prediction) -> bool:
    terms = (prediction.step_bytes, prediction.step_seconds)
    if not all(isinstance(each, dict) for each in terms) or not isinstance(prediction.device, str):
        return False
    numbers = [value for each in terms for value in each.values()]
    numbers += [
        prediction.num_params, prediction.tokens_per_step, prediction.num_devices,
        prediction.state_bytes, prediction.bubble_fraction, prediction.sharing,
        prediction.host_bytes, prediction.present_bytes or 0,
    ]
    return all(map(_is_size, numbers))


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf
