"""Schedules as data: plans, their checks, the tick table, simulation and the cut of the sequence.

The way of a schedule, each step a pure function:

    make_plan -> validate -> assign_ticks -> lower -> (replay) -> the executor
                              |
                              +-> simulate

Nothing here imports JAX.
"""

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.formulas import ClosedForm, closed_form
from seq1f1b_jax.schedule.generators.forward import forward_plan
from seq1f1b_jax.schedule.grid import draw_plan, parse_grid
from seq1f1b_jax.schedule.lowering.lower import lower
from seq1f1b_jax.schedule.lowering.replay import ReplayError, replay
from seq1f1b_jax.schedule.lowering.table import NO_STAGE, TickTable, draw_table
from seq1f1b_jax.schedule.lowering.ticks import assign_ticks
from seq1f1b_jax.schedule.named import Bubble, InFlight, Schedule, Sizes
from seq1f1b_jax.schedule.partition import (
    ChunkCost,
    aligned_block,
    balanced_lengths,
    even_lengths,
    explicit_lengths,
    tiled_lengths,
)
from seq1f1b_jax.schedule.plan import Plan, PlanError, peak_units
from seq1f1b_jax.schedule.registry import SCHEDULES, make_plan, register_schedule
from seq1f1b_jax.schedule.simulation.durations import Costs, TrainedWeights, mean_over_layers
from seq1f1b_jax.schedule.simulation.flops import StageCost
from seq1f1b_jax.schedule.simulation.simulate import MACHINES, Simulation, draw_simulation, simulate
from seq1f1b_jax.schedule.simulation.stages import balanced_layers
from seq1f1b_jax.schedule.validate import validate

__all__ = [
    "MACHINES",
    "NO_STAGE",
    "SCHEDULES",
    "Action",
    "Bubble",
    "ChunkCost",
    "ClosedForm",
    "Costs",
    "Exchange",
    "InFlight",
    "Op",
    "Plan",
    "PlanError",
    "ReplayError",
    "Schedule",
    "Simulation",
    "Sizes",
    "StageCost",
    "TickTable",
    "TrainedWeights",
    "aligned_block",
    "assign_ticks",
    "balanced_layers",
    "balanced_lengths",
    "closed_form",
    "draw_plan",
    "draw_simulation",
    "draw_table",
    "even_lengths",
    "explicit_lengths",
    "forward_plan",
    "lower",
    "make_plan",
    "mean_over_layers",
    "parse_grid",
    "peak_units",
    "register_schedule",
    "replay",
    "simulate",
    "tiled_lengths",
    "validate",
]
