"""Training from Python: a stage, a configuration, and the run in its folder."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq1f1b_jax.cli.keys import resolve_paths
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.distributed import ALONE
from seq1f1b_jax.host.stdout import Output, lasting_output
from seq1f1b_jax.pipeline import Params, Stage, check_stage
from seq1f1b_jax.training import commands
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.job import Job, use_model
from seq1f1b_jax.training.main import train
from seq1f1b_jax.training.reports.metrics import METRICS, read_metrics
from seq1f1b_jax.training.resolve import resolve
from seq1f1b_jax.training.setup import make_setup


@dataclass(frozen=True)
class Trainer:
    """Any stage on any data, as `train.py` trains: with checkpoints, resume and evaluation.

    It runs in this process, on the devices that JAX has. Settings are those of `train.py`; the
    section `model` is the stage's.

    Args:
      stage: the model.
      config: data, schedule, steps, folder of the run and all else.
      say: prints a line about the run.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.config import Config, DataConfig, MeshConfig, ScheduleConfig
      >>> from seq1f1b_jax.config import TrainConfig
      >>> from seq1f1b_jax.training.trainer import Trainer
      >>> with TemporaryDirectory() as folder:
      ...     _ = Path(folder, "text.txt").write_text("to be or not to be " * 200)
      ...     trainer = Trainer(
      ...         build_stage("llama", preset="tiny", vocab_size=256),
      ...         Config(
      ...             mesh=MeshConfig(pipe=1),
      ...             schedule=ScheduleConfig(num_microbatches=1, num_chunks=1),
      ...             data=DataConfig(source=f"{folder}/text.txt", seq_len=32),
      ...             train=TrainConfig(num_steps=2, sample_tokens=0, output_dir=f"{folder}/run"),
      ...         ),
      ...     )
      ...     lines = trainer.train()  # doctest: +ELLIPSIS
      model ...
      >>> [line["step"] for line in lines if "loss" in line]
      [0, 1]
    """

    stage: Stage
    config: Config
    say: Callable[[str], None] = print

    def train(self) -> list[dict[str, Any]]:
        """Train, or continue the run in `train.output_dir`; the lines of its `metrics.jsonl`.

        Raises:
          ValueError: a stage that breaks a rule or is no dataclass, settings that do not fit
            together, a folder of another run, or numbers that are not finite.
        """
        with lasting_output(prints_result=False) as output, self._job(output) as job:
            train(job)
        return read_metrics(job.folder / METRICS)

    def evaluate(self, num_sequences: int | None = None) -> None:
        """Print the held-out loss of the newest checkpoint; None: `train.eval_sequences`."""
        with self._job() as job:
            commands.evaluate(job, num_sequences=num_sequences)

    def generate(
        self, prompt: str, *, num_tokens: int = 200, temperature: float = 0.8, top_p: float = 0.95,
        seed: int = 0, chat: bool = False, system: str | None = None,
    ) -> None:
        """Print text sampled from the newest checkpoint; with `chat`, an answer to the prompt."""
        with self._job() as job:
            commands.generate(
                job, prompt=prompt, num_tokens=num_tokens, temperature=temperature, top_p=top_p,
                seed=seed, chat=chat, system=system,
            )

    def params(self) -> Params:
        """Parameters of the newest checkpoint, as NumPy and free of topology."""
        with self._job() as job:
            setup = make_setup(job.config, job.stage)
            return use_model(job, setup, lambda model: jax.tree.map(np.asarray, model.params))

    @contextmanager
    def _job(self, output: Output | None = None) -> Iterator[Job]:
        began = time.time()
        if jax.process_count() > 1:
            raise UserError(
                f"Trainer is for one process, and there are {jax.process_count()}; start train.py "
                "in each with model.stage"
            )
        check_stage(self.stage)
        config, _ = resolve_paths(self.config)
        silence = config.distributed.heartbeat_timeout
        folder = Path(config.train.output_dir)
        with Watchdog(config.watchdog, ALONE, folder, silence=silence) as watchdog:
            config, stage, source = resolve(config, stage=self.stage, say=self.say)
            output = output or Output(sys.stdout)
            yield Job(config, stage, source, watchdog, output, say=self.say, began=began)
