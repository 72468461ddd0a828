"""Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq1f1b_jax.training.tracking.sink import Sink, Starting

CURE = "log in with `wandb login`, set WANDB_MODE=offline"


class _WandB:
    name = "W&B"

    def __init__(self, run: Any):
        self._run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # W&B wants its own step to rise with every call; ours is a field like the others.
        self._run.log({"step": step, **values})

    def keep(self, path: Path) -> None:
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def wandb_sink(
    folder: Path, *, project: str, config: Mapping[str, Any], run_id: str | None
) -> tuple[Sink, str]:
    """A run there with the run's configuration, and its id; its files go below `folder`.

    Charts are over `step`, which counts from 0 as in `metrics.jsonl`. Steps that a resumed run does
    again have two points.

    Args:
      folder: of the run.
      project: of W&B.
      config: all settings.
      run_id: of the run to continue; None: a new one.

    Raises:
      UserError: wandb is not installed, or does not start.
    """
    with Starting("logging.wandb", "wandb", cure=CURE):
        import wandb

        run = wandb.init(
            project=project, dir=str(folder), name=folder.name, id=run_id, resume="allow"
        )
        run.config.update(dict(config), allow_val_change=True)
        run.define_metric("*", step_metric="step")
        return _WandB(run), run.id
