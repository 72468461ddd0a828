"""What will run, told before it runs: mesh, layers, chunks, predictions, schedule in letters."""

from collections.abc import Mapping

from seq1f1b_jax.pipeline.memory import MemoryPrediction, predict_memory
from seq1f1b_jax.schedule import Simulation, draw_simulation, peak_units, simulate
from seq1f1b_jax.training.data import SequenceData
from seq1f1b_jax.training.setup import Setup

GRID_WIDTH = 100
LEGEND = "F2.1: forward of microbatch 2, chunk 1; B: backward, twice as long; dots: idle"


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
        f"{_count(setup.stage.num_layers, 'layer')} of width {setup.stage.model_dim}",
        "mesh": f"{setup.mesh.size} x {device_name(device)}, axis pipe",
        "layers": f"{_join(pipeline.layout.layers_per_stage)} per stage",
        "sequence": f"{table.seq_len} tokens in {_count(table.num_chunks, 'chunk')} of "
        f"{_join(table.chunk_lengths)} ({partition})",
        "step": f"{_count(schedule.num_microbatches, 'microbatch', 'microbatches')} of "
        f"{config.data.microbatch_size}: "
        f"{setup.num_sequences * table.seq_len:,} tokens",
        "compute": f"{pipeline.compute_dtype.__name__}, attention {config.executor.attention}, "
        f"residuals {config.executor.residuals}",
        "data": f"{data.corpus.kind}, {data.corpus.tokens.size:,} tokens in "
        f"{_count(data.corpus.num_files, 'file')}, sha256 {data.corpus.sha256[:12]}",
        "schedule": f"{pipeline.plan.name}: at most {max(peak_units(pipeline.plan))} of "
        f"{schedule.num_microbatches * table.num_chunks} units in flight on a stage",
        "bubble": f"{bubble:.1%} of the step predicted",
        "memory": f"{size_text(memory.total)} per device predicted: {describe_memory(memory)}",
    }
    lines = [f"{name:<10}{text}" for name, text in rows.items()]
    return "\n".join([*lines, *(f"note      {note}" for note in setup.notes), "", _picture(setup)])


def device_name(device) -> str:
    """What a user calls the device."""
    return "virtual CPU device" if device.platform == "cpu" else device.device_kind


def size_text(num_bytes: float) -> str:
    """Bytes as kB, MB or GB, decimal.

    Example:
      >>> size_text(1_500_000)
      '1.5 MB'
    """
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"


def describe_memory(memory: MemoryPrediction) -> str:
    """The terms of a prediction in one line, largest first."""
    terms: Mapping[str, int] = memory.terms()
    ordered = sorted(terms.items(), key=lambda item: -item[1])
    return ", ".join(f"{_words(name)} {size_text(size)}" for name, size in ordered if size)


def _picture(setup: Setup) -> str:
    """The schedule over time, F and B in letters; long ones end in an ellipsis."""
    drawing = draw_simulation(simulate(setup.pipeline.plan, 1, 2))
    lines = [LEGEND, *drawing.splitlines()]
    fits = (line if len(line) <= GRID_WIDTH else line[:GRID_WIDTH] + " ..." for line in lines)
    return "\n".join(fits)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _join(counts) -> str:
    return "+".join(map(str, counts))


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
