"""Where the numbers of a run go: `metrics.jsonl`, and the services that its settings ask for."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from seq1f1b_jax.config import Config
from seq1f1b_jax.host.files import replace_file
from seq1f1b_jax.training.job import Job
from seq1f1b_jax.training.reports.metrics import METRICS, MetricsWriter, NoMetrics, keep_earlier
from seq1f1b_jax.training.tracking.mlflow_client import mlflow_sink
from seq1f1b_jax.training.tracking.sink import Behind, Sink
from seq1f1b_jax.training.tracking.tensorboard import tensorboard_sink
from seq1f1b_jax.training.tracking.weights_and_biases import wandb_sink

TRACKING = "tracking.json"
"""In a run's folder: the ids of the run at the services, which a resumed run continues."""


def open_metrics(job: Job, start: int, stack: ExitStack) -> MetricsWriter | NoMetrics:
    """Where the steps' numbers go; process 0 writes them.

    Args:
      job: of the run.
      start: its first step now.
      stack: closes it.

    Raises:
      UserError: in every process: a file cannot be written, or a service does not start.
    """
    opened: list[MetricsWriter] = []
    job.group.first(
        "metrics", lambda: opened.append(stack.enter_context(_open(job, start)))
    )
    return opened[0] if opened else NoMetrics()


def _open(job: Job, start: int) -> MetricsWriter:
    path = job.folder / METRICS
    if not start and (earlier := keep_earlier(path)):
        moved, steps = earlier
        job.say(
            f"note: {job.folder} has no checkpoint, so the run starts over; the metrics of {steps} "
            f"steps are kept in {moved.name}"
        )
    sinks = open_sinks(job.config, job.folder, start, say=job.say)
    return MetricsWriter(path, start_step=start, sinks=sinks, say=job.say)


def open_sinks(
    config: Config, folder: Path, start: int, *, say: Callable[[str], None]
) -> tuple[Sink, ...]:
    """The services that the settings ask for; a run that goes on continues its run there.

    Raises:
      UserError: one does not start.
    """
    logging, settings = config.logging, asdict(config)
    ids = read_ids(folder) if start else {}
    sinks: list[Sink] = []
    if logging.tensorboard:
        sinks.append(tensorboard_sink(folder / "tensorboard", start_step=start))
    if logging.wandb:
        sink, ids["wandb"] = wandb_sink(
            folder, project=logging.wandb_project, config=settings, run_id=ids.get("wandb")
        )
        sinks.append(sink)
    if logging.mlflow:
        sink, ids["mlflow"] = mlflow_sink(
            folder, experiment=logging.mlflow_experiment, uri=logging.mlflow_uri, config=settings,
            run_id=ids.get("mlflow"),
        )
        sinks.append(sink)
    if logging.wandb or logging.mlflow:
        write_ids(folder, ids)
    return tuple(Behind(sink, say=say) for sink in sinks)


def read_ids(folder: Path) -> dict[str, str]:
    """The ids of a run at the services, by service; none where the file is not one of ours."""
    try:
        found = json.loads((folder / TRACKING).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def write_ids(folder: Path, ids: Mapping[str, str]) -> None:
    """Keep the ids for a resumed run."""
    replace_file(folder / TRACKING, json.dumps(dict(ids)).encode() + b"\n")
