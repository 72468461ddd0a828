"""The files of a run that services keep: what it is at the start, what came of it at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.host.files import replace_file
from seq1f1b_jax.paths import RUN_CONFIG
from seq1f1b_jax.picture import timeline_of, write
from seq1f1b_jax.schedule import Costs, simulate
from seq1f1b_jax.training.job import Job
from seq1f1b_jax.training.reports.metrics import MetricsWriter, NoMetrics
from seq1f1b_jax.training.reports.prediction import PREDICTION
from seq1f1b_jax.training.setup import Setup

HEADER, SCHEDULE = "header.txt", "schedule.svg"
"""The lines above the run, and its schedule as a picture; written where a service keeps them."""
TRACES = ("trace.svg", "trace.html")


def keep_at_start(
    metrics: MetricsWriter | NoMetrics, job: Job, setup: Setup, *, header: str
) -> None:
    """Hand over the settings, the prediction, the header and a picture of the schedule."""
    if not metrics.has_sinks:
        return
    replace_file(job.folder / HEADER, header.encode() + b"\n")
    simulation = simulate(setup.pipeline.plan, Costs(forward=1, backward=2), machine="executor")
    write([timeline_of(simulation, title=setup.pipeline.plan.name)], job.folder / SCHEDULE)
    names = (RUN_CONFIG, PREDICTION, HEADER, SCHEDULE)
    metrics.keep(*present(job.folder, names))


def keep_at_end(
    metrics: MetricsWriter | NoMetrics, job: Job, page: Callable[[Path], Path] | None
) -> None:
    """Hand over the drawing of a traced step, and the run's page.

    Args:
      metrics: of the run.
      job: the run.
      page: writes the page into the run's folder; None: there is none to write it.
    """
    if not metrics.has_sinks:
        return
    metrics.keep(*present(job.folder, TRACES))
    if page is not None:
        try:
            metrics.keep(page(job.folder))
        except (UserError, OSError) as error:  # the run is complete without it
            job.say(f"note: no page of the run ({error})")


def present(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Those of the files that are there."""
    return (folder / name for name in names if (folder / name).is_file())
