# %% [markdown]
# # Where the time goes
#
# A step takes the work of a rank plus the time that it waits. First by formula and simulation,
# without a device: the bubble, chunks of unequal cost, a longer warm-up. Then measured: a real
# step on two virtual devices, action by action, beside its prediction.
#
# The next cell gives JAX two CPU devices and tells it not to spread matmuls over cores, so that
# on two cores each device has about one.

# %%
import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # read when JAX starts

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

# %%
import matplotlib.pyplot as plt
import numpy as np

from seq1f1b_jax.config import (
    Config,
    DataConfig,
    ExecutorConfig,
    MeshConfig,
    ScheduleConfig,
)
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.picture import timeline_of
from seq1f1b_jax.picture.figure import build_figure
from seq1f1b_jax.pipeline.executor.trace import Recorder
from seq1f1b_jax.schedule import (
    Costs,
    Op,
    StageCost,
    balanced_lengths,
    closed_form,
    even_lengths,
    make_plan,
    peak_units,
    simulate,
)
from seq1f1b_jax.training.preview.trace import compare
from seq1f1b_jax.training.setup import make_setup

# %% [markdown]
# ## The bubble, by formula and by simulation
#
# With units of equal cost the bubble is `(P-1)(F+B)`, with F and B the time of one unit on one
# rank: cut the sequence into C chunks and it shrinks C-fold. `closed_form` evaluates the
# formulas, `simulate` runs the order of work on a clock. Crosses on lines: they agree to the last
# digit.

# %%
chunks = [1, 2, 4, 8, 16]
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for name in ("seq1f1b", "seq1f1b-i", "seq-zb-h1"):
    by_formula, by_simulation = [], []
    for num_chunks in chunks:
        sizes = dict(num_ranks=8, num_microbatches=16, num_chunks=num_chunks)
        plan = make_plan(name, **sizes)
        units = num_chunks * plan.stages_per_rank  # that a microbatch is cut into, on every rank
        costs = Costs(forward=1 / units, backward=2 / units)
        by_formula.append(100 * closed_form(name, costs, **sizes).bubble_fraction)
        by_simulation.append(100 * simulate(plan, costs, machine="executor").bubble_fraction)
    (line,) = axes.plot(chunks, by_formula, label=name)
    axes.plot(chunks, by_simulation, "x", color=line.get_color())
    assert np.allclose(by_formula, by_simulation)
axes.set_xscale("log", base=2)
axes.set_xticks(chunks, chunks)
axes.set(xlabel="C, chunks per sequence (P=8, M=16, B=2F)", ylabel="bubble, % of the step", ylim=0)
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# ## Chunks of unequal cost
#
# Real chunks do not cost the same. The query at position i sees i+1 keys, so of four equally long
# chunks the last one costs most. `StageCost` counts the operations of a chunk, and
# `balanced_lengths` cuts so that the most costly chunk is as cheap as possible. Here for the last
# stage of the published 2.7b model on 8 ranks, which has the head, too:

# %%
model = dict(
    model_dim=2560, num_heads=32, num_kv_heads=32, head_dim=80, mlp_dim=10240, gated=False,
    vocab_size=50304, layers_per_stage=(4,) * 8,
)
cost, seq_len, num_chunks = StageCost(**model), 32768, 4
cuts = {
    "even": even_lengths(seq_len, num_chunks, block=128),
    "balanced": balanced_lengths(seq_len, num_chunks, cost, block=128),
}
figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
for axes, (title, lengths) in zip(panels, cuts.items()):
    forward = [row / 1e12 for row in cost.forward_costs(lengths)[-1]]
    backward = [row / 1e12 for row in cost.backward_costs(lengths)[-1]]
    axes.bar(range(num_chunks), forward, 0.6, label="F")
    axes.bar(range(num_chunks), backward, 0.6, forward, label="B")
    axes.set_xticks(range(num_chunks), [f"{c}\n{n:,}" for c, n in enumerate(lengths)])
    axes.set_xlabel("chunk, and its tokens")
    axes.set_title(f"{title} chunks of {seq_len:,} tokens", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
panels[0].set_ylabel("10¹² operations")
panels[0].legend()
plt.show()

# %% [markdown]
# A pipeline runs at the pace of its slowest chunk. Below, two microbatches on four ranks with
# each cut, on one time axis: where a chunk is longer than its neighbours, the ranks around it
# wait.

# %%
smaller = StageCost(**model | {"layers_per_stage": (8,) * 4})
plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=2, num_chunks=4)
longest = max(smaller.forward_costs(cuts["balanced"])[0])  # the unit of the time axis
timelines = [
    timeline_of(
        simulate(plan, smaller.costs(lengths).scaled(1 / longest), machine="executor"),
        title=f"{title} chunks",
    )
    for title, lengths in cuts.items()
]
build_figure(timelines)

# %% [markdown]
# ## A longer warm-up
#
# More forwards before the first backward let a rank run ahead of its neighbours, and each of them
# is a unit of memory. Where neighbours exchange by parity they still keep step, so `extra_warmup`
# hides little of unequal chunks. `seq1f1b-lockstep` has twice the warm-up and another exchange,
# and hides most. Balancing costs nothing.

# %%
sizes = dict(num_ranks=8, num_microbatches=16, num_chunks=4)
plans = [make_plan("seq1f1b", **sizes, extra_warmup=extra) for extra in range(8)]
lockstep = make_plan("seq1f1b-lockstep", **sizes)


def over_work(plan, costs):
    """Time of a step over the work of its busiest rank."""
    step = simulate(plan, costs, machine="executor")
    return step.makespan / max(step.busy)


figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for title, lengths in cuts.items():
    costs = cost.costs(lengths)
    units = [peak_units(plan)[0] for plan in plans]
    times = [over_work(plan, costs) for plan in plans]
    (line,) = axes.plot(units, times, "o-", label=f"{title}, seq1f1b with extra_warmup 0 to 7")
    at = peak_units(lockstep)[0], over_work(lockstep, costs)
    axes.plot(*at, "*", markersize=14, color=line.get_color(), label=f"{title}, seq1f1b-lockstep")
    print(f"{title:9} seq1f1b {times[0]:.3f}, seq1f1b-lockstep {at[1]:.3f} times the work")
axes.set(xlabel="units in flight on rank 0 (P=8, M=16, C=4)", ylim=1)
axes.set_ylabel("time of the step over\nwork of the busiest rank")
axes.grid(alpha=0.3)
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# ## Measured
#
# Now a real step: a small llama on two devices, two microbatches of 2048 tokens in four chunks,
# first even and then balanced ones. A recorder puts two callbacks around every action, which
# report when it began and ended; a step without a recorder holds nothing of this. The prediction
# is the simulator's, with counted operations as the costs, scaled so that all actions together
# take as long as measured. What is compared is how the work is spread and who waits.

# %%
stage = build_stage("llama", num_layers=4, model_dim=256, num_heads=8, vocab_size=256,
                    max_positions=2048)
tokens = jax.random.randint(jax.random.key(1), (2, 1, 2048), 0, stage.vocab_size)


def measured(partition, rounds=3):
    """The fastest of some steps, predicted and measured, and the records of its actions."""
    config = Config(
        mesh=MeshConfig(pipe=2),
        data=DataConfig(seq_len=2048),
        schedule=ScheduleConfig(
            num_microbatches=2, num_chunks=4, partition=partition, block=128
        ),
        executor=ExecutorConfig(attention="xla_blockwise"),
    )
    setup, recorder = make_setup(config, stage), Recorder()
    params = setup.pipeline.init(jax.random.key(0))
    step = jax.jit(setup.pipeline.traced(recorder).loss_and_grads)
    jax.block_until_ready(step(params, tokens, tokens))  # compiles, and touches the memory
    best = None
    for _ in range(rounds):
        jax.effects_barrier()
        recorder.clear()
        jax.block_until_ready(step(params, tokens, tokens))
        jax.effects_barrier()
        records = recorder.records
        if best is None or span(records) < span(best):
            best = records
    return setup, compare(setup, best), best


def span(records):
    return max(r.end_seconds for r in records) - min(r.start_seconds for r in records)


even_setup, even_trace, even_records = measured("even")
build_figure(even_trace)

# %%
balanced_setup, balanced_trace, balanced_records = measured("balanced")
build_figure(balanced_trace)

# %% [markdown]
# Does an action take what was counted? A point is an action: its share of the operations of the
# step, and its share of the time. Below the diagonal are actions that ran while the other device
# waited, and had more of the machine to themselves, such as the first backward of rank 1; above
# it those that shared it with other work. On devices of their own what is left is the efficiency
# of kernels: short chunks make small matmuls.

# %%
def shares(setup, records, op):
    """Of the actions of an operation: % of all operations, and of all time."""
    cost = setup.cost.costs(setup.pipeline.table.chunk_lengths).per_action(2, 4)
    counted = np.asarray([cost(record.action) for record in records])
    seconds = np.asarray([record.end_seconds - record.start_seconds for record in records])
    chosen = np.asarray([record.action.op is op for record in records])
    return (100 * values[chosen] / values.sum() for values in (counted, seconds))


figure, panels = plt.subplots(
    1, 2, figsize=(8, 3.8), layout="constrained", sharex=True, sharey=True
)
shown = {"even": (even_setup, even_records), "balanced": (balanced_setup, balanced_records)}
for axes, (title, (setup, records)) in zip(panels, shown.items()):
    for op, marker in ((Op.F, "o"), (Op.B, "s")):
        axes.plot(*shares(setup, records, op), marker, alpha=0.6, label=op.value)
    axes.axline((0, 0), slope=1, color="gray", linestyle="--", label="as counted")
    axes.set(xlabel="operations of an action, % of the step", xlim=0, ylim=0)
    axes.set_title(f"{title} chunks", fontsize="medium")
    axes.grid(alpha=0.3)
panels[0].set_ylabel("time of the action, % of all actions")
panels[0].legend(fontsize="small")
plt.show()

# %% [markdown]
# `train.py --trace` records a step of any run in the same way and writes the picture into its
# folder ([what actually ran](../docs/schedules.md#what-actually-ran)). Why the executor takes the
# simulated time, on real processes too, is in [the design of
# schedules](../docs/design/schedules.md).
