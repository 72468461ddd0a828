# %% [markdown]
# # Read a schedule
#
# A schedule is an ordered list of actions for every rank: data that can be printed, drawn, timed,
# broken and searched. Nothing here needs JAX or a device; the package has to be importable (`pip
# install -e .` in a clone).

# %%
# %matplotlib inline
from seq1f1b_jax.explore.search import compare_named, draw_comparison, find_plan
from seq1f1b_jax.picture import timeline_of
from seq1f1b_jax.picture.figure import build_figure
from seq1f1b_jax.schedule import (
    Costs,
    PlanError,
    draw_plan,
    make_plan,
    parse_grid,
    peak_units,
    simulate,
    validate,
)

# %% [markdown]
# ## In letters
#
# `F2.1` is the forward of microbatch 2, chunk 1, and `B2.1` its backward. Every row is a rank: a
# stage of the model on its device. Read a row from the left: forwards to warm up, then a forward
# and a backward in turn, then the backwards that are left. Chunks of a microbatch run forward in
# ascending order, because chunk 1 attends to the keys and values of chunk 0, and backward in
# descending order, because chunk 0 collects gradients from chunk 1.

# %%
plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=3, num_chunks=2)
print(draw_plan(plan))

# %% [markdown]
# ## In time
#
# The list says nothing about time. A simulation adds it: here a forward takes 1 and a backward 2.
# The curves under the boxes are what each rank holds, a unit (one chunk of one microbatch) from
# its forward to the end of its backward. Rank 0 holds most, because its units wait for the whole
# pipeline.

# %%
simulation = simulate(plan, Costs(forward=1, backward=2), machine="executor")
build_figure([timeline_of(simulation, title="seq1f1b")])

# %% [markdown]
# ## Compared
#
# The same work under four schedules, so the same area of boxes: a microbatch takes 1 forward and
# 2 backward on every rank, whatever it is cut into. Whole sequences (`1f1b`) fill and drain the
# pipeline in steps of a microbatch, chunks in steps of a quarter. Two stages per rank
# (`seq1f1b-i`) halve the waiting again. A backward in two halves (`seq-zb-h1`), of which the next
# stage needs only the first, leaves a third of it.

# %%
timelines = []
for name, num_chunks in {"1f1b": 1, "seq1f1b": 4, "seq1f1b-i": 4, "seq-zb-h1": 4}.items():
    compared = make_plan(name, num_ranks=4, num_microbatches=4, num_chunks=num_chunks)
    units = num_chunks * compared.stages_per_rank  # that a microbatch is cut into, on every rank
    step = simulate(compared, Costs(forward=1 / units, backward=2 / units), machine="executor")
    timelines.append(timeline_of(step, title=name, memory_unit="microbatches"))
    print(
        f"{name:10} step {step.makespan:5.2f}   bubble {step.bubble_fraction:5.1%}   "
        f"at most {peak_units(compared)[0] / units:.3g} microbatches on rank 0"
    )
build_figure(timelines)

# %% [markdown]
# ## Break one
#
# Orders that cannot run are refused before anything runs, and the message shows the cell. Here
# rank 1 runs the backward of chunk 0 before that of chunk 1.

# %%
grid = """
rank 0  F0.0 F0.1 B0.1 B0.0
rank 1  F0.0 F0.1 B0.0 B0.1
"""
try:
    validate(parse_grid(grid, name="mine"))
except PlanError as error:
    print(error)

# %% [markdown]
# Each row may be fine by itself and the rows still wait for each other: rank 0 wants a backward
# before it has sent the forward that rank 1 needs for it.

# %%
grid = """
rank 0  F0.0 B0.0 F1.0 B1.0
rank 1  F0.0 F1.0 B0.0 B1.0
"""
try:
    validate(parse_grid(grid, name="mine"))
except PlanError as error:
    print(error)

# %% [markdown]
# ## Search
#
# Are the named schedules the best orders? At equal costs a lower bound proves it. Chunks of equal
# length do not cost the same, though: later tokens attend to more. Say that the second of two
# chunks costs twice the first. On three ranks `seq1f1b` then takes 45 and at most 4 units in
# flight; in lock-step, with twice the warm-up, 39 and 6 units. What if there is memory for 5? The
# problem is small enough to look at all orders.

# %%
costs = Costs(forward=[1, 2], backward=[2, 4])
sizes = dict(num_ranks=3, num_microbatches=3, num_chunks=2)
found = find_plan(**sizes, costs=costs, max_units=5)
print(draw_comparison(compare_named(found, costs)))
print(f"\nproof that no order of whole backwards is faster within the cap: {found.proof}")

# %%
named = make_plan("seq1f1b", **sizes)
build_figure(
    [
        timeline_of(simulate(named, costs, machine="executor"), title="seq1f1b"),
        timeline_of(simulate(found.plan, costs, machine="executor"), title="found"),
    ]
)

# %% [markdown]
# A plan that was found or written by hand trains like any other: write it with `--save`, and give
# the file to `train.py --schedule.plan` ([plans in files](../docs/plans.md)). A generator of
# plans with a name is [a custom schedule](../docs/own_schedule.md). Balanced chunks, which need
# no search, are in [where the time goes](where_the_time_goes.ipynb).
