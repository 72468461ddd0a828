"""TensorBoard event files, by tensorboardX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq1f1b_jax.training.tracking.sink import Sink, Starting

TEXTS = (".txt", ".yaml", ".json")
"""Endings of the files that it shows, as text."""


class _TensorBoard:
    name = "TensorBoard"

    def __init__(self, writer: Any):
        self._writer = writer

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def keep(self, path: Path) -> None:
        if path.suffix in TEXTS:
            lines = path.read_text(encoding="utf-8").splitlines()
            self._writer.add_text(path.name, "\n".join(f"    {line}" for line in lines))

    def close(self, *, failed: bool) -> None:
        self._writer.close()


def tensorboard_sink(folder: str | Path, *, start_step: int) -> Sink:
    """TensorBoard event files in `folder`; events of `start_step` and later are hidden as redone.

    Raises:
      UserError: tensorboardX is not installed, or the folder cannot be written.
    """
    with Starting("logging.tensorboard", "tensorboardX", cure="make the run's folder writable"):
        from tensorboardX import SummaryWriter

        return _TensorBoard(SummaryWriter(str(folder), purge_step=start_step))
