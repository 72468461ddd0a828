"""What is known of a step before it compiles: its memory, what that needs, its bubble."""

from typing import NamedTuple

from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.memory import MemoryPrediction, predict_memory
from seq1f1b_jax.schedule import Simulation, simulate
from seq1f1b_jax.training.faults.needs import Needs, needs_of, program_of
from seq1f1b_jax.training.preview.seconds import PredictedTime, predict_seconds
from seq1f1b_jax.training.setup import Setup


class Predicted(NamedTuple):
    """A step as predicted.

    Attributes:
      program: the static facts of the step.
      memory: bytes that it allocates.
      needs: these and the state, beside what is there.
      bubble_fraction: of the step's time, in which devices wait.
      time: of a step; `None` where nothing is known of the device or the model.
    """

    program: Program
    memory: MemoryPrediction
    needs: Needs
    bubble_fraction: float
    time: PredictedTime | None


def predict(setup: Setup) -> Predicted:
    """Predict a step; the model's layers are traced, so it takes about a second."""
    program = program_of(setup)
    memory = predict_memory(program)
    needs = needs_of(setup, memory)
    time = predict_time(setup)
    seconds = predict_seconds(setup, time)
    return Predicted(program, memory, needs, time.bubble_fraction, seconds)


def predict_time(setup: Setup) -> Simulation:
    """Time of a step in the executor from the cost of every chunk, in FLOPs or measured seconds."""
    costs = setup.time_cost.costs(setup.pipeline.table.chunk_lengths)
    return simulate(setup.pipeline.plan, costs, machine="executor")
