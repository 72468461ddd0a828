"""A run described before it starts: mesh, layers, chunks, predictions, schedule in letters."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from seq1f1b_jax.config import Config
from seq1f1b_jax.data import MixedData, SequenceData
from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.models import num_params as count_params
from seq1f1b_jax.models.hf import Source
from seq1f1b_jax.ops.attention import AttentionBackend
from seq1f1b_jax.pipeline.memory import MemoryPrediction
from seq1f1b_jax.pipeline.stage import Stage, num_experts_of
from seq1f1b_jax.schedule import Costs, Op, Plan, draw_simulation, peak_units, simulate
from seq1f1b_jax.training.faults.needs import Needs, shortage
from seq1f1b_jax.training.preview.offload import describe_offload
from seq1f1b_jax.training.preview.predict import Predicted
from seq1f1b_jax.training.preview.seconds import describe_time
from seq1f1b_jax.training.preview.sources import describe_data
from seq1f1b_jax.training.setup import Setup

GRID_WIDTH = 100
LEGEND = "F2.1: forward of microbatch 2, chunk 1; {backward}; dots: idle, in the executor"
WHOLE, SPLIT = "B: backward, twice as long", "I and W: input and weight half of its backward"


def describe(
    setup: Setup,
    data: SequenceData | MixedData,
    *,
    num_params: int,
    predicted: Predicted,
    source: Source | None = None,
) -> str:
    """The lines above a run.

    Args:
      setup: of the run.
      data: its sequences.
      num_params: parameters of the whole model.
      predicted: of its step.
      source: the checkpoint that it starts from.
    """
    config, pipeline = setup.config, setup.pipeline
    device = setup.mesh.devices.flat[0]
    table = pipeline.table
    packed = config.data.packing == "documents"
    program, memory, needs, bubble, time = predicted
    schedule = config.schedule
    partition = "as listed" if schedule.chunk_lengths else schedule.partition
    per_rank = pipeline.plan.stages_per_rank
    rows = {
        "model": f"{config.model.stage or config.model.family}, {num_params:,} parameters"
        f"{_experts(setup.stage)}, {_count(setup.stage.num_layers, 'layer')} of width "
        f"{setup.stage.model_dim}",
        **({"source": source.describe()} if source else {}),
        **({} if config.trainable is None else {"trains": describe_trained(setup)}),
        "mesh": f"{setup.mesh.size} x {device_name(device)}, {_axes(setup)}",
        "layers": f"{_join(pipeline.layout.layers_per_stage)} per stage"
        + " (balanced)" * (config.mesh.layers_per_stage == "balanced")
        + f", {per_rank} stages on a device" * (per_rank > 1)
        + ", unrolled" * pipeline.unrolled,
        "sequence": f"{table.seq_len} tokens in {_count(table.num_chunks, 'chunk')} of "
        f"{_join(table.chunk_lengths)} ({partition})",
        "step": f"{_count(schedule.num_microbatches, 'microbatch', 'microbatches')} of "
        f"{config.data.microbatch_size}: "
        f"{setup.num_sequences * table.seq_len:,} tokens",
        "compute": f"{jnp.dtype(pipeline.options.compute_dtype).name}, attention "
        f"{_attention(program.attention)}, recompute {config.executor.recompute}",
        "data": describe_data(data, num_sequences=config.train.num_steps * setup.num_sequences)
        + f", packed documents fill {data.fill_rate:.1%}" * packed,
        "schedule": f"{pipeline.plan.name}: at most {max(peak_units(pipeline.plan))} of "
        f"{schedule.num_microbatches * table.num_chunks * pipeline.plan.stages_per_rank} units in "
        "flight on a device",
        "bubble": f"{bubble:.1%} of the step predicted",
        **({"time": describe_time(time)} if time else {}),
        "memory": f"{size_text(memory.total)} per device predicted: {describe_memory(memory)}",
        **({"offload": describe_offload(setup, program)} if program.num_host_layers else {}),
        "needs": describe_needs(needs),
    }
    lines = [f"{name:<10}{text}" for name, text in rows.items()]
    notes = [*setup.notes, *source_notes(config, source)]
    if problem := shortage(setup, needs):
        notes.append(problem)
    return "\n".join([*lines, *(f"note      {note}" for note in notes), "", _picture(setup)])


def describe_trained(setup: Setup) -> str:
    """How many parameters train, and which."""
    whole = jax.eval_shape(setup.stage.init, jax.random.key(0))
    count, own = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (whole, setup.pipeline.trained.only(whole))
    )
    lora, given = setup.config.lora, setup.config.train.trainable
    which = [f"LoRA rank {lora.rank} on {', '.join(lora.projections)}"] if lora.rank else []
    which += [", ".join(given)] if given else []
    return f"{own:,} of {count:,} parameters ({'; '.join(which)})"


def source_notes(config: Config, source: Source | None) -> Iterator[str]:
    """Advice on the checkpoint that the run starts from."""
    if source is None or source.context_length is None:
        return
    if config.data.seq_len > source.context_length and config.model.rope.type == "none":
        factor = -(-config.data.seq_len // source.context_length)
        yield (
            f"the checkpoint was trained on {source.context_length} tokens, data.seq_len is "
            f"{config.data.seq_len}: stretch its positions with --model.rope.type yarn "
            f"--model.rope.factor {factor} --model.rope.original_max_positions "
            f"{source.context_length}"
        )


def _attention(backend: AttentionBackend) -> str:
    """Which one, and why it was chosen."""
    return f"{backend.name} ({backend.why})" if backend.why else backend.name


def _axes(setup: Setup) -> str:
    """Axes of the mesh, with their sizes where there are several."""
    axes = dict(setup.mesh.shape)
    if len(axes) == 1:
        return "axis pipe"
    return ", ".join(f"{name} {size}" for name, size in axes.items())


def device_name(device) -> str:
    """What a user calls the device."""
    return "virtual CPU device" if device.platform == "cpu" else device.device_kind


def describe_memory(memory: MemoryPrediction) -> str:
    """The terms of a prediction in one line, largest first."""
    terms: Mapping[str, int] = memory.terms()
    ordered = sorted(terms.items(), key=lambda item: -item[1])
    return ", ".join(f"{_words(name)} {size_text(size)}" for name, size in ordered if size)


def describe_needs(needs: Needs) -> str:
    """What a device must hold, against what it has.

    Example:
      >>> from seq1f1b_jax.training.faults.needs import Needs
      >>> from seq1f1b_jax.training.preview.header import describe_needs
      >>> describe_needs(Needs(step=2_000_000, state=500_000, present=8_000_000_000, sharing=4))
      '2.5 MB on each device, 0.5 MB of it parameters and optimizer; 4 of them share 8.00 GB'
      >>> describe_needs(Needs(step=40 * 10**9, state=10**9, present=85 * 10**9, sharing=1))
      '41.00 GB on each device, 1.00 GB of it parameters and optimizer; it has 85.00 GB'
    """
    state = f"{size_text(needs.state)} of it parameters and optimizer"
    text = f"{size_text(needs.total)} on each device, {state}"
    if needs.present is not None:
        whose = "it has" if needs.sharing == 1 else f"{needs.sharing} of them share"
        text += f"; {whose} {size_text(needs.present)}"
    if needs.host:
        text += f"; {size_text(needs.host * needs.host_sharing)} of host memory"
        text += f" of {size_text(needs.host_present)}" * (needs.host_present is not None)
    return text


def _picture(setup: Setup) -> str:
    """The timeline of the executor for units of equal cost, F and B in letters."""
    backward = SPLIT if Op.W in setup.pipeline.table.ops else WHOLE
    return f"{LEGEND.format(backward=backward)}\n{draw_course(setup.pipeline.plan)}"


def draw_course(plan: Plan) -> str:
    """Draw a plan as the executor runs it where units cost the same, as wide as a page.

    Example:
      >>> from seq1f1b_jax.schedule import make_plan
      >>> from seq1f1b_jax.training.preview.header import draw_course
      >>> print(draw_course(make_plan("1f1b", num_ranks=2, num_microbatches=1, num_chunks=1)))
      rank 0  F0.0 .... .... .... B0.0-----
      rank 1  .... F0.0 B0.0----- .... ....
    """
    simulation = simulate(plan, Costs(forward=1, backward=2), machine="executor")
    return draw_simulation(simulation, max_width=GRID_WIDTH)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _join(counts) -> str:
    return "+".join(map(str, counts))


def _experts(stage: Stage) -> str:
    count = num_experts_of(stage)
    if not count:
        return ""
    active, chosen = count_params(stage, only_active=True), getattr(stage, "experts_per_token", "?")
    return f" ({active:,} for a token: {chosen} of {count} experts)"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
