"""MLflow, by its client."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seq1f1b_jax.training.tracking.sink import Sink, Starting

MAX_PARAMS = 100
"""Parameters that a request may hold."""
MAX_TEXT = 500
"""Characters of a parameter's value that every server takes."""
CURE = (
    "name a tracking server with --logging.mlflow_uri or MLFLOW_TRACKING_URI, or install all of "
    "mlflow for a database of its own"
)


class _MLflow:
    name = "MLflow"

    def __init__(self, client: Any, run_id: str):
        self._client, self._run_id = client, run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        numbers = [Metric(metric_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=numbers)

    def keep(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path))

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run_id, status="FAILED" if failed else "FINISHED")


def mlflow_sink(
    folder: Path, *, experiment: str, uri: str | None, config: Mapping[str, Any],
    run_id: str | None,
) -> tuple[Sink, str]:
    """A run there, and its id; settings are parameters, set once: MLflow lets none change.

    Args:
      folder: of the run, which names it.
      experiment: that it belongs to; made if there is none.
      uri: of the tracking server; None: as MLflow finds one.
      config: all settings.
      run_id: of the run to continue; None: a new one.

    Raises:
      UserError: mlflow is not installed, or the server does not answer or knows no such run.
    """
    with Starting("logging.mlflow", "mlflow-skinny", cure=CURE):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=uri)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return _MLflow(client, run_id), run_id
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        made: str = client.create_run(number, run_name=folder.name).info.run_id
        params = [Param(name, value) for name, value in parameters(config)]
        for first in range(0, len(params), MAX_PARAMS):
            client.log_batch(made, params=params[first : first + MAX_PARAMS])
        return _MLflow(client, made), made


def parameters(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted name and value of every setting, as text.

    Example:
      >>> list(parameters({"data": {"source": "stdlib", "sources": None}}))
      [('data.source', 'stdlib'), ('data.sources', 'None')]
    """
    for section, values in config.items():
        for name, value in values.items():
            yield f"{section}.{name}", str(value)[:MAX_TEXT]


def metric_name(name: str) -> str:
    """A name with the characters that MLflow takes.

    Example:
      >>> metric_name("drawn/web+code.txt")
      'drawn/web_code.txt'
    """
    return re.sub(r"[^\w./: -]", "_", name, flags=re.ASCII)
