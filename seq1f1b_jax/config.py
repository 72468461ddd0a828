"""Every setting of a run as frozen dataclasses: data only, standard library only.

A setting that is `None` is decided later from something the configuration cannot see: a preset, the
devices present, the tokenizer. `seq1f1b_jax.config_checks.validate` holds the cross-field checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class ModelConfig:
    """The transformer. A field set here wins over the preset, the preset over `MODEL_DEFAULTS`.

    Attributes:
      family: registry key of the model family: `gpt` or `llama`.
      preset: name of a published or small size that fills the fields left at None.
      num_layers: transformer layers of the whole model.
      model_dim: width of the residual stream.
      num_heads: query heads.
      num_kv_heads: key/value heads, a divisor of num_heads; None: the preset's, else num_heads.
      head_dim: width of one head; None: model_dim / num_heads.
      mlp_dim: hidden width of the MLP; None: the family's rule.
      vocab_size: rows of the vocabulary tables; None: from the data (256 for byte-level text).
      max_positions: longest sequence that learned positions cover; None: data.seq_len.
      tied: whether embedding and head are one table.
      norm_eps: constant added to the variance in the norms.
      rope_theta: base of the rotary frequencies (llama).
      dropout: must be 0; any other value is refused with the reason.
    """

    family: str = "llama"
    preset: str | None = None
    num_layers: int | None = None
    model_dim: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    vocab_size: int | None = None
    max_positions: int | None = None
    tied: bool | None = None
    norm_eps: float | None = None
    rope_theta: float | None = None
    dropout: float = 0.0


MODEL_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "num_layers": 8,
        "model_dim": 128,
        "num_heads": 4,
        "tied": False,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
)


@dataclass(frozen=True)
class MeshConfig:
    """The devices and how layers lie on them.

    Attributes:
      pipe: pipeline stages, one device each; None: all devices.
      platform: `cpu` or `gpu`; None: the accelerator where there is one, else the CPU.
      virtual_devices: CPU devices to simulate where the platform is the CPU; None: pipe, else 4.
      layers_per_stage: layers of each stage, first to last, virtual stages included; None: as even
        as they go.
    """

    pipe: int | None = None
    platform: Literal["cpu", "gpu"] | None = None
    virtual_devices: int | None = None
    layers_per_stage: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """The order of work in one step.

    Attributes:
      name: registry key of the schedule, such as `seq1f1b`, `seq1f1b-i` or `seq-zb-h1`;
        `python -m seq1f1b_jax.schedule` lists them.
      plan: file of a plan of one's own, a grid as CSV or text; overrides name. Sizes must be those
        of the run; virtual stages are the plan's.
      num_microbatches: sequence batches per step; their gradients are accumulated.
      num_chunks: slices of each sequence.
      partition: `balanced` gives chunks of equal computation, `even` chunks of equal length.
      chunk_lengths: tokens of each chunk, first to last; overrides partition.
      block: lengths are multiples of this many tokens where the sequence allows.
      num_virtual: virtual stages per rank, for interleaved schedules; None: 2 there, else 1.
      extra_warmup: more forwards on every rank before its first backward; each takes the memory of
        a unit, and helps little (see docs/design/schedules.md).
      short_warmup: for interleaved schedules: fewer units in flight, and more waiting.
    """

    name: str = "seq1f1b"
    plan: str | None = None
    num_microbatches: int = 8
    num_chunks: int = 4
    partition: Literal["balanced", "even"] = "balanced"
    chunk_lengths: tuple[int, ...] | None = None
    block: int = 128
    num_virtual: int | None = None
    extra_warmup: int = 0
    short_warmup: bool = False


@dataclass(frozen=True)
class ExecutorConfig:
    """How a unit of work is computed.

    Attributes:
      attention: registry key of the attention backend: `xla_blockwise` or `xla_dense`.
      residuals: what forward keeps for backward: `none` stores all, `selective` recomputes
        elementwise operations, `full` stores layer inputs only.
      loss_block: tokens whose logits exist at one time in the loss.
      compute_dtype: `bfloat16`, `float32`, or `auto`: bfloat16 where the device has it.
    """

    attention: str = "xla_blockwise"
    residuals: Literal["none", "selective", "full"] = "selective"
    loss_block: int = 1024
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"


@dataclass(frozen=True)
class DataConfig:
    """The text.

    Attributes:
      source: `stdlib` (the source code of Python's standard library), or the path of a text file,
        of a folder of text files, or of a `.bin` file of token ids.
      seq_len: tokens of one training sequence.
      microbatch_size: sequences in one microbatch.
      eval_fraction: part of the tokens held out for evaluation.
      token_dtype: type of the ids in a `.bin` file.
      seed: seed of the order of the sequences.
    """

    source: str = "stdlib"
    seq_len: int = 1024
    microbatch_size: int = 1
    eval_fraction: float = 0.05
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    seed: int = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, cosine decay and a global-norm clip.

    Attributes:
      learning_rate: peak of the schedule.
      warmup_steps: steps of the linear rise to the peak; at most half of the run.
      min_learning_rate_ratio: learning rate of the last step over the peak.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: constant added to the root of the second moment.
      weight_decay: decoupled decay of the matrices; norms and biases are left out.
      clip_norm: largest global gradient norm that is let through.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 20
    min_learning_rate_ratio: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Attributes:
      num_steps: optimizer steps of the whole run.
      eval_every: steps between evaluations on held-out text; 0: at the end only.
      eval_batches: held-out steps' worth of sequences in one evaluation.
      seed: seed of the initial parameters and of the sample.
      sample_tokens: tokens sampled from the trained model at the end; 0: none.
      output_dir: folder of checkpoints, metrics and the run's configuration.
      resume: `auto` continues the newest good checkpoint in output_dir, `never` starts over.
      trace: record in one extra step when each action ran on each device, and draw that under the
        prediction, into output_dir/trace.*; costs a second compilation and two steps, no memory
        later.
    """

    num_steps: int = 200
    eval_every: int = 100
    eval_batches: int = 4
    seed: int = 0
    sample_tokens: int = 200
    output_dir: str = "runs/default"
    resume: Literal["auto", "never"] = "auto"
    trace: bool = False


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
    """Where metrics go beside `metrics.jsonl`.

    Attributes:
      tensorboard: also write TensorBoard event files (extra `logging`).
      wandb: also report to Weights & Biases (extra `logging`).
      wandb_project: project name there.
      progress: show a progress bar.
    """

    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "seq1f1b-jax"
    progress: bool = True


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)


class UserError(ValueError):
    """Bad input or bad luck that one line can explain: what was given, the rule, the cure."""


def resolve_model(model: ModelConfig, preset: Mapping[str, Any] | None = None) -> ModelConfig:
    """Fill the fields of `model` that are None from `preset`, then from `MODEL_DEFAULTS`.

    Args:
      model: the user's settings.
      preset: fields of `ModelConfig` by name, of the preset that `model.preset` names.

    Returns:
      A model configuration in which only `preset` and the fields that follow from others or from
      the data may be None (`head_dim`, `mlp_dim`, `vocab_size`, `max_positions`).

    Example:
      >>> resolve_model(ModelConfig(num_layers=12), {"num_layers": 32, "tied": True}).num_layers
      12
    """
    given = {name: value for name, value in asdict(model).items() if value is not None}
    filled = {**MODEL_DEFAULTS, **(preset or {}), **given}
    filled.setdefault("num_kv_heads", filled["num_heads"])
    return replace(model, **filled)
