"""What will run, told before it runs: mesh, layers, chunks, the schedule in letters, predictions."""

from collections.abc import Mapping

from seq1f1b_jax.pipeline.memory import MemoryPrediction, predict_memory
from seq1f1b_jax.schedule import Simulation, draw_simulation, peak_units, simulate
from seq1f1b_jax.training.data import SequenceData
from seq1f1b_jax.training.setup import Setup

GRID_WIDTH = 100


def predict_time(setup: Setup) -> Simulation:
    """Asynchronous time of a step, in FLOPs of the slowest device, from the cost of every chunk."""
    pipeline, cost = setup.pipeline, setup.cost
    lengths = pipeline.table.chunk_lengths
    return simulate(pipeline.plan, cost.forward_costs(lengths), cost.backward_costs(lengths))


def describe(setup: Setup, data: SequenceData, num_params: int) -> str:
    """The lines that stand above a run."""
    config, pipeline = setup.config, setup.pipeline
    device = setup.mesh.devices.flat[0]
    table = pipeline.table
    memory = predict_memory(pipeline.program(config.data.microbatch_size))
    bubble = predict_time(setup).bubble_fraction
    schedule = config.schedule
    partition = "as listed" if schedule.chunk_lengths else schedule.partition
    rows = {
        "model": f"{config.model.family}, {num_params:,} parameters, "
        f"{setup.stage.num_layers} layers of width {setup.stage.model_dim}",
        "mesh": f"{setup.mesh.size} x {device_name(device)}, axis pipe",
        "layers": f"{_join(pipeline.layout.layers_per_stage)} per stage",
        "sequence": f"{table.seq_len} tokens in {table.num_chunks} chunks of "
        f"{_join(table.chunk_lengths)} ({partition})",
        "step": f"{schedule.num_microbatches} microbatches of {config.data.microbatch_size}: "
        f"{setup.num_sequences * table.seq_len:,} tokens",
        "compute": f"{pipeline.compute_dtype.__name__}, attention {config.executor.attention}, "
        f"residuals {config.executor.residuals}",
        "data": f"{data.corpus.kind}, {data.corpus.tokens.size:,} tokens in "
        f"{data.corpus.num_files} files, sha256 {data.corpus.sha256[:12]}",
        "schedule": f"{pipeline.plan.name}: at most {max(peak_units(pipeline.plan))} of "
        f"{schedule.num_microbatches * table.num_chunks} units in flight on a stage",
        "bubble": f"{bubble:.1%} of the step predicted",
        "memory": f"{megabytes(memory.total)} per device predicted: {describe_memory(memory)}",
    }
    lines = [f"{name:<10}{text}" for name, text in rows.items()]
    return "\n".join([*lines, *(f"note      {note}" for note in setup.notes), "", _picture(setup)])


def device_name(device) -> str:
    """What a user calls the device."""
    return "virtual CPU device" if device.platform == "cpu" else device.device_kind


def megabytes(num_bytes: float) -> str:
    """Bytes as MB or GB, decimal.

    Example:
      >>> megabytes(1_500_000)
      '1.5 MB'
    """
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def describe_memory(memory: MemoryPrediction) -> str:
    """The terms of a prediction in one line, largest first."""
    terms: Mapping[str, int] = memory.terms()
    ordered = sorted(terms.items(), key=lambda item: -item[1])
    return ", ".join(f"{name.replace('_', ' ')} {megabytes(size)}" for name, size in ordered if size)


def _picture(setup: Setup) -> str:
    """The schedule over time, F and B in letters; long ones end in an ellipsis."""
    drawing = draw_simulation(simulate(setup.pipeline.plan, 1, 2))
    lines = drawing.splitlines()
    return "\n".join(line if len(line) <= GRID_WIDTH else line[:GRID_WIDTH] + " ..." for line in lines)


def _join(counts) -> str:
    return "+".join(map(str, counts))
