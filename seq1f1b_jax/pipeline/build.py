"""Build a training step or an evaluation from a model, a plan and a mesh: the public entry."""

from collections.abc import Sequence
from dataclasses import replace

from jax.sharding import Mesh

from seq1f1b_jax.ops.attention import AttentionBackend, Scoring, choose_backend
from seq1f1b_jax.ops.axes import PIPE, TENSOR, axis_size
from seq1f1b_jax.pipeline.checks.check_stage import check_stage
from seq1f1b_jax.pipeline.halves import tensor_axis
from seq1f1b_jax.pipeline.options import DEFAULTS, ExecutorOptions
from seq1f1b_jax.pipeline.params.layout import make_layout, tensor_dims_of
from seq1f1b_jax.pipeline.params.trained import find_trained
from seq1f1b_jax.pipeline.stage import (
    Stage,
    max_positions_of,
    position_tables_of,
    shard_stage,
)
from seq1f1b_jax.pipeline.step import PipelineStep, heads_of
from seq1f1b_jax.schedule import Plan, lower, validate
from seq1f1b_jax.schedule.memory.layers import is_unrolled, offloaded_layers
from seq1f1b_jax.schedule.user_code import import_named, one_line_refusal


def build_step(
    stage: Stage,
    plan: Plan,
    mesh: Mesh,
    *,
    chunk_lengths: Sequence[int],
    layers_per_stage: Sequence[int] | None = None,
    options: ExecutorOptions = DEFAULTS,
) -> PipelineStep:
    """Bring model, schedule and mesh together.

    Args:
      stage: the model (`pipeline.stage.Stage`); anything with those functions will do.
      plan: the schedule (`schedule.make_plan`, or any plan that `schedule.validate` accepts).
      mesh: axis `pipe` with as many devices as the plan has ranks, and optionally `data` and
        `tensor` (`make_mesh`; `ops.axes` describes them).
      chunk_lengths: tokens per chunk, one per chunk of the plan (`schedule.balanced_lengths`).
      layers_per_stage: layers of every stage along the model; default as even as possible, earlier
        stages take the remainder.
      options: attention, recomputation, dtype and the like.

    Raises:
      ValueError: the stage breaks a rule (`check_stage`), a pattern of `options.trainable` names
        none of its leaves, or plan, mesh, chunk lengths and layers do not fit together.

    Example:
      >>> import jax
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.pipeline import make_mesh
      >>> from seq1f1b_jax.schedule import make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=4, num_chunks=2)
      >>> step = build_step(
      ...     build_stage("gpt", preset="tiny"), plan, make_mesh(2), chunk_lengths=(16, 16)
      ... )
      >>> params = step.init(jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (4, 1, 33), 0, 64)  # [M, sequence, token]
      >>> inputs, targets = tokens[..., :-1], tokens[..., 1:]
      >>> loss, grads = jax.eval_shape(step.loss_and_grads, params, inputs, targets)  # or jax.jit
      >>> loss.shape, grads.embedding.shape == params.embedding.shape
      ((), True)

    Source: Seq1F1B (arXiv 2406.03488), section 3.
    """
    check_stage(stage, compute_dtype=options.compute_dtype)
    find_trained(stage, options.trainable)
    validate(plan)
    num_devices = dict(mesh.shape).get(PIPE)
    if num_devices != plan.num_ranks:
        raise ValueError(
            f"the plan has {plan.num_ranks} stages and the mesh has axes {dict(mesh.shape)}; "
            f"the mesh needs an axis {PIPE!r} of size {plan.num_ranks} (pipeline.make_mesh)"
        )
    limit = max_positions_of(stage)
    if limit is not None and sum(chunk_lengths) > limit:
        raise ValueError(
            f"chunk_lengths={tuple(chunk_lengths)} are {sum(chunk_lengths)} tokens, and "
            f"{type(stage).__name__}.max_positions={limit}; use shorter sequences, or a stage with "
            "more positions"
        )
    tensor = tensor_axis(axis_size(mesh, TENSOR), options)
    tensor.check_chunks(chunk_lengths)
    layout = make_layout(
        stage.num_layers,
        plan.num_ranks,
        vocab_size=stage.vocab_size,
        tied=stage.tied,
        stages_per_rank=plan.stages_per_rank,
        layers_per_stage=layers_per_stage,
        num_tensor=tensor.size,
        tensor_dims=tensor_dims_of(stage, shard_stage(stage, tensor)),
        position_tables=dict.fromkeys(position_tables_of(stage), limit or 0),
    )
    platform = mesh.devices.flat[0].platform
    return PipelineStep(
        stage=stage,
        plan=plan,
        table=lower(plan, tuple(chunk_lengths)),
        mesh=mesh,
        layout=layout,
        attention=choose_attention(stage, mesh, options),
        options=options,
        unrolled=is_unrolled(
            options.unroll, max_layers=layout.max_layers, num_chunks=plan.num_chunks,
            stages_per_rank=plan.stages_per_rank, platform=platform,
        ),
        num_host_layers=offloaded_layers(options.offload, layout.max_layers),
    )


def choose_attention(stage: Stage, mesh: Mesh, options: ExecutorOptions) -> AttentionBackend:
    """The attention of a step: see `ops.attention.choose_backend`, or the user's own.

    Raises:
      ValueError: no such backend, or one that lacks what a layer needs.
    """
    part = shard_stage(stage, tensor_axis(axis_size(mesh, TENSOR), options))
    heads = heads_of(part, options)
    if ":" in options.attention:
        backend = _own_attention(options.attention, heads.scorings[0])
    else:
        backend = choose_backend(options.attention, list(mesh.devices.flat), heads)
    for scoring in heads.scorings[1:]:
        backend.of(scoring)
    return backend


def _own_attention(name: str, scoring: Scoring) -> AttentionBackend:
    """What `package.module:function` makes of a scoring."""
    make = import_named(name, what="executor.attention", kind="a function")

    def made(scoring: Scoring) -> AttentionBackend:
        with one_line_refusal(f"executor.attention={name} failed for {scoring}"):
            backend = make(scoring)
        if not isinstance(backend, AttentionBackend):
            raise ValueError(
                f"executor.attention={name} gave a {type(backend).__name__}; it must return an "
                "ops.attention.AttentionBackend for the Scoring that it is given"
            )
        return replace(backend, name=name, rescored=made)

    return made(scoring)
