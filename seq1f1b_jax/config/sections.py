"""Every setting of a run as frozen dataclasses: data only, standard library only.

A setting that is `None` is decided later from something the configuration cannot see: a preset, the
devices present, the tokenizer. `seq1f1b_jax.config.checks.validate` holds the cross-field checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from seq1f1b_jax.config.data import DataConfig
from seq1f1b_jax.config.lora import LoraConfig, trainable_patterns
from seq1f1b_jax.config.model import ModelConfig
from seq1f1b_jax.config.optimizer import OptimizerConfig
from seq1f1b_jax.config.pipeline import ExecutorConfig, MeshConfig, ScheduleConfig, XlaConfig
from seq1f1b_jax.config.profile import Steps


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, on one host or many; each is started with the same settings.

    Attributes:
      coordinator: `host:port` of process 0, which the others can reach; with the next two.
      num_processes: how many there are.
      process_id: which one this is, counted from 0; the one setting that differs.
      detect: without these three, `auto` asks the variables of SLURM, MPI or Kubeflow; `never`.
      initialization_timeout: seconds to wait for the others at the start.
      heartbeat_timeout: seconds of silence after which a process counts as dead, and all end.
      stopped_status: exit status of a run that SIGTERM or Ctrl-C stopped, once saved; 77 lets
        a scheduler know that it is not complete.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    detect: Literal["auto", "never"] = "auto"
    initialization_timeout: int = 300
    heartbeat_timeout: int = 30
    stopped_status: Literal[0, 77] = 0


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Attributes:
      num_steps: optimizer steps of the whole run.
      eval_every: steps between evaluations on held-out text; 0: at the end only.
      eval_sequences: held-out sequences in one evaluation, the first ones in their fixed order;
        None: all. Losses are comparable across microbatch sizes and meshes.
      trainable: leaves that train, by patterns of their names: [head], [layers.mlp.*, "*norm*"],
        [embedding, last.scale]; the others stay as they are. Those of layers are of all layers at
        once. None: all of them; with lora.rank the adapters.
      z_loss: factor of the squared logarithm of the softmax's denominator that is added to a
        token's loss while training, and keeps logits small; 1e-4 is usual. An evaluation leaves it
        out.
      balance_loss: factor of what is added to the loss where a model's experts are not used alike,
        averaged over layers and sequences; the value of Mixtral and Qwen3-MoE. 0: nothing.
      router_z_loss: factor of the squared logarithm of their routers' denominators; 1e-3 is usual.
      seed: seed of the initial parameters and of the sample.
      sample_tokens: tokens sampled from the trained model at the end; 0: none.
      output_dir: folder of checkpoints, metrics and the run's configuration.
      resume: `auto` continues the newest good checkpoint in output_dir, `never` starts over.
      trace: record in one extra step when each action ran on each device, and draw that under the
        prediction, into output_dir/trace.*; costs a second compilation and two steps, no memory
        later.
      profile: steps of which a profile is written for TensorBoard and Perfetto, into
        output_dir/profile: `10`, `10-12` or `5,10-12`, counted from 0.
      profile_processes: whose: of the `first` process, or of `all`.
      compile_cache: where compiled programs are kept for the next start: `off`; a folder that is
        yours alone; `auto`: one below the home folder on accelerators, none on the CPU.
    """

    num_steps: int = 200
    eval_every: int = 100
    eval_sequences: int | None = 64
    trainable: tuple[str, ...] | None = None
    z_loss: float = 0.0
    balance_loss: float = 0.001
    router_z_loss: float = 0.0
    seed: int = 0
    sample_tokens: int = 200
    output_dir: str = "runs/default"
    resume: Literal["auto", "never"] = "auto"
    trace: bool = False
    profile: Steps = None
    profile_processes: Literal["first", "all"] = "first"
    compile_cache: str = "auto"


@dataclass(frozen=True)
class WatchdogConfig:
    """When a run without progress is ended, with a diagnosis and a status that says why.

    Attributes:
      enabled: whether steps are watched; the processes of a run watch each other in any case.
      factor: a step that takes this many times the running median counts as stalled.
      min_seconds: but never before this many seconds.
      first_seconds: limit of the first step, in which devices meet.
      ticks: follow every action, so that a diagnosis names the cell of the plan; costs two host
        callbacks per action.
    """

    enabled: bool = True
    factor: float = 10.0
    min_seconds: float = 60.0
    first_seconds: float = 900.0
    ticks: bool = False


@dataclass(frozen=True)
class CheckpointConfig:
    """What is saved when.

    Attributes:
      every: steps between checkpoints; the last step is always saved.
      keep: number of newest checkpoints that stay on disk.
    """

    every: int = 50
    keep: int = 2


@dataclass(frozen=True)
class LoggingConfig:
    """Where metrics and files of the run go beside its folder.

    Attributes:
      tensorboard: also write TensorBoard event files (extra `logging`).
      wandb: also report to Weights & Biases (extra `logging`).
      wandb_project: project name there.
      mlflow: also report to MLflow (extra `logging`).
      mlflow_experiment: experiment name there.
      mlflow_uri: its tracking server; None: MLFLOW_TRACKING_URI, else as MLflow decides.
      progress: show a progress bar.
    """

    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "seq1f1b-jax"
    mlflow: bool = False
    mlflow_experiment: str = "seq1f1b-jax"
    mlflow_uri: str | None = None
    progress: bool = True


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    xla: XlaConfig = field(default_factory=XlaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def trainable(self) -> tuple[str, ...] | None:
        """Patterns of the leaves that train; None: all of them do."""
        return trainable_patterns(self.lora, self.train.trainable)
