"""Cross-field checks of a configuration: all that need neither JAX nor data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from seq1f1b_jax.config import Config, MeshConfig, RopeConfig, UserError
from seq1f1b_jax.config.data import data_problems
from seq1f1b_jax.config.lora import lora_problems
from seq1f1b_jax.config.model import DEFAULT_POSITIONS, stage_problems
from seq1f1b_jax.config.optimizer import optimizer_problems
from seq1f1b_jax.config.pipeline import costs_problems
from seq1f1b_jax.config.profile import profile_problems

POSITIVE = (
    "model.num_layers", "model.model_dim", "model.num_heads", "model.num_kv_heads",
    "model.head_dim", "model.mlp_dim", "model.vocab_size", "model.max_positions", "model.norm_eps",
    "model.rope_theta", "mesh.data", "mesh.pipe", "mesh.tensor", "mesh.virtual_devices",
    "schedule.num_microbatches", "schedule.num_chunks", "schedule.stages_per_rank",
    "schedule.block", "executor.loss_block", "data.seq_len", "data.microbatch_size",
    "lora.alpha", "optimizer.learning_rate", "optimizer.decay_steps", "optimizer.clip_norm",
    "train.num_steps", "train.eval_sequences", "checkpoint.every", "checkpoint.keep",
    "distributed.initialization_timeout", "distributed.heartbeat_timeout", "watchdog.factor",
    "watchdog.min_seconds", "watchdog.first_seconds",
)  # fmt: skip
MAX_COUNT = 1 << 31
"""Counts and sizes are below it: they become indices of 32 bits."""
MAX_UNITS = 100_000
"""Units of work of a stage in a step: each is an entry of the table that is run."""
NOT_NEGATIVE = (
    "schedule.extra_warmup", "schedule.max_slowdown", "schedule.max_growth", "executor.unroll",
    "optimizer.warmup_steps", "optimizer.weight_decay", "train.eval_every", "train.sample_tokens",
    "train.seed", "train.z_loss", "train.balance_loss", "train.router_z_loss", "data.seed",
    "lora.rank",
)  # fmt: skip


def validate(config: Config) -> None:
    """Refuse a configuration that cannot run; fields that are still None are skipped.

    Raises:
      UserError: the first problem, as what was given, the rule and the cure.

    Example:
      >>> from seq1f1b_jax.config import Config
      >>> validate(Config())
    """
    for problem in problems(config):
        raise UserError(problem)


def problems(config: Config) -> Iterator[str]:
    """Every problem of `config`, one line each, the most elementary first."""
    yield from _ranges(config)
    yield from _model(config)
    yield from _mesh(config)
    yield from _schedule(config)
    yield from _run(config)


def num_virtual_devices(mesh: MeshConfig) -> int:
    """CPU devices to simulate: as set, else what the mesh takes, with four ranks by default."""
    return mesh.virtual_devices or mesh.data * (mesh.pipe or 4) * mesh.tensor


def _ranges(config: Config) -> Iterator[str]:
    for key in POSITIVE:
        value = _get(config, key)
        if value is not None and not (0 < value < math.inf):
            usual = _get(Config(), key)
            yield f"{key}={value}: must be above 0; use {1 if usual is None else usual}"
    for key in NOT_NEGATIVE:
        value = _get(config, key)
        if value != "auto" and not (0 <= value < math.inf):
            yield f"{key}={value}: must not be negative; use 0 or more"
    for key in (*POSITIVE, *NOT_NEGATIVE):
        value = _get(config, key)
        if isinstance(value, int) and value >= MAX_COUNT and not key.endswith(".seed"):
            yield f"{key}={value}: must be below 2**31 = {MAX_COUNT}; use less"
    for key in ("train.seed", "data.seed"):
        if _get(config, key) >= 1 << 32:
            yield f"{key}={_get(config, key)}: must be below 2**32 = {1 << 32}; use a smaller seed"
    yield from data_problems(config.data)
    yield from optimizer_problems(config.optimizer)


def _model(config: Config) -> Iterator[str]:
    model, data = config.model, config.data
    if model.dropout != 0:
        yield (
            f"model.dropout={model.dropout}: a chunk's backward is rebuilt from what its forward "
            "stored, and dropout masks are not stored; use model.dropout=0"
        )
    heads, kv_heads = model.num_heads, model.num_kv_heads
    if heads and kv_heads and heads % kv_heads:
        divisors = [n for n in range(1, heads + 1) if heads % n == 0]
        yield (
            f"model.num_kv_heads={kv_heads} does not divide model.num_heads={heads}; "
            f"use one of {divisors}"
        )
    if model.model_dim and heads and model.head_dim is None and model.model_dim % heads:
        yield (
            f"model.model_dim={model.model_dim} is not a multiple of model.num_heads={heads}; "
            f"use model.model_dim={-(-model.model_dim // heads) * heads} or set model.head_dim"
        )
    if model.rope.type == "none" and model.rope != RopeConfig():
        given = next(f for f, v in vars(RopeConfig()).items() if getattr(model.rope, f) != v)
        yield (
            f"model.rope.{given}={getattr(model.rope, given)} has no effect without a type; set "
            "model.rope.type to linear, ntk, yarn, llama3, longrope or dynamic"
        )
    if model.window is not None and model.window < 1:
        yield (
            f"model.window={model.window}: a query sees itself at least; use 1 or more keys, or "
            "null for no window"
        )
    # a preset's kind of positions is known once it is filled in, and then this is checked again
    positions = model.positions or (not model.preset and DEFAULT_POSITIONS.get(model.family))
    if positions == "learned" and model.max_positions and model.max_positions < data.seq_len:
        cure = f"--model.max_positions {data.seq_len}"
        if model.source:  # its table of positions is as long as it is
            cure = f"--data.seq_len {model.max_positions} or less"
        yield (
            f"data.seq_len={data.seq_len} is longer than the model.max_positions="
            f"{model.max_positions} it can learn; use {cure}"
        )
    yield from stage_problems(model)
    named = model.stage or model.preset or model.source
    given = [data.source] if data.sources is None else data.sources
    bins = [source for source in given if source.endswith(".bin")]
    if bins and model.vocab_size is None and not named:
        yield (
            f"data.source={bins[0]!r} holds token ids and not their vocabulary; "
            "set model.vocab_size"
        )


def _mesh(config: Config) -> Iterator[str]:
    mesh, layers = config.mesh, config.model.num_layers
    wanted = mesh.data * (mesh.pipe or 1) * mesh.tensor
    if mesh.platform == "cpu" and wanted > num_virtual_devices(mesh):
        yield (
            f"{_devices_of(mesh)} need as many devices, mesh.virtual_devices="
            f"{mesh.virtual_devices} gives fewer; use --mesh.virtual_devices {wanted}"
        )
    if config.data.microbatch_size % mesh.data:
        above = -(-config.data.microbatch_size // mesh.data) * mesh.data
        yield (
            f"data.microbatch_size={config.data.microbatch_size} sequences cannot be spread over "
            f"mesh.data={mesh.data} pipelines; use --data.microbatch_size {above}, or fewer "
            "pipelines"
        )
    yield from _tensor(config)
    stages_per_rank = 1 if config.schedule.plan else config.schedule.stages_per_rank or 1
    stages = mesh.pipe and mesh.pipe * stages_per_rank
    held = f" with schedule.stages_per_rank={stages_per_rank} each" * (stages_per_rank > 1)
    if layers and stages and layers < stages:
        cure = f"--mesh.pipe {layers} or " * (stages_per_rank == 1)
        yield (
            f"model.num_layers={layers} is fewer than mesh.pipe={mesh.pipe} ranks{held}, and "
            f"every stage needs a layer; use {cure}--model.num_layers {stages}"
        )
    per_stage = mesh.layers_per_stage
    if per_stage is None or per_stage == "balanced":
        return
    if not per_stage or min(per_stage) < 1:
        yield f"mesh.layers_per_stage={list(per_stage)}: every stage needs a layer; use 1 or more"
    if stages and len(per_stage) != stages and config.schedule.stages_per_rank:
        yield (
            f"mesh.layers_per_stage={list(per_stage)} names {len(per_stage)} stages, mesh.pipe="
            f"{mesh.pipe}{held} makes {stages}; give {stages} numbers"
        )
    elif stages and stages_per_rank == 1 and len(per_stage) % stages:
        yield (
            f"mesh.layers_per_stage={list(per_stage)} names {len(per_stage)} stages, the mesh has "
            f"{mesh.pipe}; give {mesh.pipe} numbers or use --mesh.pipe {len(per_stage)}"
        )
    if layers and sum(per_stage) != layers:
        yield (
            f"mesh.layers_per_stage={list(per_stage)} adds up to {sum(per_stage)}, the model has "
            f"{layers} layers; change a number or use --model.num_layers {sum(per_stage)}"
        )


def _tensor(config: Config) -> Iterator[str]:
    mesh, model = config.mesh, config.model
    if mesh.sequence_parallel and mesh.tensor == 1:
        yield (
            "mesh.sequence_parallel shares tokens among the devices of a stage, and mesh.tensor=1 "
            "leaves one; use --mesh.tensor 2 or more, or leave it off"
        )
    offload = config.executor.offload
    if offload != "auto" and not 0 <= offload <= 1:
        yield (
            f"executor.offload={offload} is not a fraction of the layers; use a number from 0 (all "
            "on the device) to 1 (all in host memory), or auto"
        )
    if config.executor.halves and not mesh.sequence_parallel:
        yield (
            "executor.halves overlaps the collectives of tokens that devices share; use "
            "--mesh.sequence_parallel true too, or leave it off"
        )
    if config.executor.halves and config.executor.recompute == "none":
        yield (
            "executor.halves with executor.recompute=none would keep each half of a layer's values "
            "beside the whole; use --executor.recompute selective, or leave halves off"
        )
    heads = model.num_heads
    if heads and heads % mesh.tensor:
        yield (
            f"mesh.tensor={mesh.tensor} devices cannot share model.num_heads={heads} evenly; use "
            f"one of {[n for n in range(1, heads + 1) if heads % n == 0]}"
        )
    shared = mesh.tensor * (1 + config.executor.halves) if mesh.sequence_parallel else 1
    lengths = config.schedule.chunk_lengths or ()
    if config.data.seq_len % shared or any(length % shared for length in lengths):
        yield (
            f"mesh.sequence_parallel shards every chunk over mesh.tensor={mesh.tensor} devices"
            f"{', in two halves' * config.executor.halves}; use multiples of {shared} for "
            f"data.seq_len={config.data.seq_len} and chunk_lengths"
        )
    if not lengths and config.schedule.block % shared:
        yield (
            f"schedule.block={config.schedule.block}: with mesh.sequence_parallel chunks are "
            f"sharded over mesh.tensor={mesh.tensor} devices; use a multiple of {shared}"
        )


def _devices_of(mesh: MeshConfig) -> str:
    """The mesh in words."""
    ranks = f"mesh.pipe={mesh.pipe} ranks"
    ranks += f" of mesh.tensor={mesh.tensor} devices" * (mesh.tensor > 1)
    return f"mesh.data={mesh.data} pipelines of {ranks}" if mesh.data > 1 else ranks


def _schedule(config: Config) -> Iterator[str]:
    schedule, seq_len = config.schedule, config.data.seq_len
    if schedule.num_chunks > seq_len:
        yield (
            f"schedule.num_chunks={schedule.num_chunks} is more than data.seq_len={seq_len}, "
            f"and a chunk needs a token; use at most {seq_len}"
        )
    units = schedule.num_microbatches * schedule.num_chunks
    if units > MAX_UNITS:
        yield (
            f"schedule.num_microbatches={schedule.num_microbatches} of schedule.num_chunks="
            f"{schedule.num_chunks} chunks are {units} units of work per step, of at most "
            f"{MAX_UNITS}; use fewer, or a larger data.microbatch_size"
        )
    yield from costs_problems(schedule)
    options = ("stages_per_rank", "extra_warmup", "short_warmup")
    if schedule.plan and (given := [name for name in options if getattr(schedule, name)]):
        yield (
            f"schedule.{given[0]}={getattr(schedule, given[0])} shapes a named schedule, and "
            f"schedule.plan={schedule.plan} is a plan already; leave out one of them"
        )
    lengths = schedule.chunk_lengths
    if lengths is None:
        return
    if not lengths or min(lengths) < 1:
        yield f"schedule.chunk_lengths={list(lengths)}: every chunk needs a token; use 1 or more"
    if len(lengths) != schedule.num_chunks:
        yield (
            f"schedule.chunk_lengths={list(lengths)} names {len(lengths)} chunks, "
            f"schedule.num_chunks={schedule.num_chunks}; use --schedule.num_chunks {len(lengths)}"
        )
    if sum(lengths) != seq_len:
        yield (
            f"schedule.chunk_lengths={list(lengths)} adds up to {sum(lengths)}, "
            f"data.seq_len={seq_len}; use --data.seq_len {sum(lengths)} or change a length"
        )


def _run(config: Config) -> Iterator[str]:
    for section, values in vars(config).items():
        for name, value in vars(values).items():
            if isinstance(value, str) and "\0" in value:
                given = f"{section}.{name}={value!r}"
                yield f"{given} holds a zero byte, and no name of a file may; leave it out"
    if not config.train.output_dir.strip():
        yield "train.output_dir is empty; name a folder such as runs/default"
    train = config.train
    yield from lora_problems(
        config.lora, train.trainable, stage=config.model.stage, family=config.model.family
    )
    yield from profile_problems(train.profile, train.profile_processes, train.num_steps)
    if config.train.resume == "never" and config.distributed.stopped_status:
        yield (
            f"distributed.stopped_status={config.distributed.stopped_status} is for a scheduler "
            "that starts the run again, and train.resume=never would start it over each time; set "
            "another train.output_dir instead"
        )


def _get(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
