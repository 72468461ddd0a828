# %% [markdown]
# # Where the memory goes
#
# The bytes of a training step, predicted from its schedule before anything compiles, beside what
# the compiler allocates; then the published memory of the method, in ratios. Nothing here runs a
# model: JAX is given 32 virtual CPU devices to build programs for, and told not to optimise
# machine code that will not run, which changes no byte of what is allocated.

# %%
import math
import os

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # read when JAX starts

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 32)  # before the first use of JAX

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.memory import predict_memory
from seq1f1b_jax.schedule import StageCost, balanced_lengths, even_lengths, make_plan

# %% [markdown]
# ## Predicted
#
# A small llama on four ranks with sequences of 4096 tokens. A schedule tells how many units are
# in flight at most, the model's shapes tell what a unit keeps, and the sum is `predict_memory`:
#
# - `ring`: activations that forwards leave to their backwards, of the units in flight,
# - `cache`: keys and values of the same units,
# - `prefix gradients`: what later chunks have added to the gradients of keys and values; with one
#   chunk there are none,
# - `workspace`: scratch of the largest single action, in most cases one layer's backward,
# - the rest: gradient accumulators, gathered tables, messages that wait.

# %%
num_ranks, num_microbatches, seq_len = 4, 8, 4096
stage = build_stage(
    "llama", num_layers=8, model_dim=256, num_heads=8, vocab_size=256, max_positions=seq_len
)


def small_step(num_chunks, schedule="seq1f1b", **options):
    plan = make_plan(
        schedule, num_ranks=num_ranks, num_microbatches=num_microbatches, num_chunks=num_chunks
    )
    lengths = even_lengths(seq_len, num_chunks, block=128)
    options = ExecutorOptions(attention="xla_blockwise", **options)
    return build_step(stage, plan, make_mesh(num_ranks), chunk_lengths=lengths, options=options)


NAMED = ("ring", "cache", "prefix_gradients", "workspace")


def terms(step):
    """The prediction in MB, small terms added up."""
    all_terms = predict_memory(step.program(1)).terms()
    shown = {name: all_terms.pop(name) / 1e6 for name in NAMED}
    return {**shown, "the rest": sum(all_terms.values()) / 1e6}


chunks = [1, 2, 4, 8, 16]
predicted = {num_chunks: terms(small_step(num_chunks)) for num_chunks in chunks}
print("MB  " + "".join(f"{name.replace('_', ' '):>18}" for name in predicted[1]) + "       total")
for num_chunks, sizes in predicted.items():
    row = "".join(f"{size:18.1f}" for size in sizes.values())
    print(f"C={num_chunks:<2}{row}{sum(sizes.values()):12.1f}")

# %% [markdown]
# ## Compiled
#
# XLA compiles the same steps for four devices and says what it allocates: temporaries, and
# outputs, which are the gradients.

# %%
def compiled(step):
    """MB of one device that are no arguments."""
    shape = (num_microbatches, 1, seq_len)
    whole = NamedSharding(step.mesh, PartitionSpec())
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=whole)
    lowered = jax.jit(step.loss_and_grads).lower(step.abstract_params(), tokens, tokens)
    memory = lowered.compile().memory_analysis()
    return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6


allocated = {num_chunks: compiled(small_step(num_chunks)) for num_chunks in chunks}
for num_chunks, size in allocated.items():
    total = sum(predicted[num_chunks].values())
    print(f"C={num_chunks:<2} compiled {size:6.1f} MB, {size / total:.3f} of what was predicted")


# %%
def stack(axes, columns, *, marks=None):
    """Stacked bars of terms, a column each, and marks for what the compiler allocates."""
    bottom = np.zeros(len(columns))
    for name in next(iter(columns.values())):
        heights = np.asarray([sizes[name] for sizes in columns.values()])
        axes.bar(range(len(columns)), heights, 0.6, bottom, label=name.replace("_", " "))
        bottom += heights
    if marks:
        axes.plot(range(len(columns)), marks, "k_", markersize=30, label="compiled")
    axes.set_xticks(range(len(columns)), columns)
    axes.set(ylabel="MB per device", ylim=(0, 1.15 * bottom.max()))
    axes.grid(axis="y", alpha=0.3)


figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
stack(axes, predicted, marks=list(allocated.values()))
axes.set_xlabel("C, chunks per sequence")
axes.legend(markerscale=0.5)
plt.show()

# %% [markdown]
# The ring falls as the formula says: a rank holds `P+C-1` units of a C-th of a sequence each,
# where whole sequences take P, so `(P+C-1)/(PC)` of them. It cannot fall below `1/P`, one
# sequence; after C=8 little is left to gain, and each chunk adds code to compile.

# %%
for num_chunks, sizes in predicted.items():
    formula = (num_ranks + num_chunks - 1) / (num_ranks * num_chunks)
    ring = sizes["ring"] / predicted[1]["ring"]
    print(f"C={num_chunks:<2} ring over that of C=1 {ring:.4f}, formula {formula:.4f}")

# %% [markdown]
# ## What else changes it
#
# On the left the schedule, all with four chunks but `1f1b`: `terapipe` keeps every unit of the
# step, `seq-zb-h1` what the second halves of backwards still need (among the rest). On the right
# what a backward computes again: `selective` elementwise functions and norms, `matmuls` all but
# attention, `full` the whole layer.

# %%
schedules = {"terapipe": 4, "1f1b": 1, "seq1f1b": 4, "seq-zb-h1": 4, "seq1f1b-i": 4}
by_schedule = {name: terms(small_step(c, name)) for name, c in schedules.items()}
policies = ("none", "selective", "matmuls", "full")
by_policy = {policy: terms(small_step(4, recompute=policy)) for policy in policies}

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(5, 4)
)
stack(left, by_schedule)
left.set_title("schedule", fontsize="medium")
stack(right, by_policy)
right.set_title("recompute, with seq1f1b and C=4", fontsize="medium")
right.legend(fontsize="small")
plt.show()

# %% [markdown]
# ## The published figure, in ratios
#
# The paper reports the peak of the fullest stage on A100s of 80 GB: its 2.7b model on 8 GPUs (a
# pipeline of 8) and its 7b model on 32, which we take for pipelines of 4 with layers shared by 8.
# Absolute bytes belong to their allocator; the ratio of Seq1F1B with four chunks to 1F1B belongs
# to the method. Ours are predictions for the same shapes, state of the optimizer included:
# bfloat16, no recompute, balanced chunks.

# %%
PUBLISHED = {  # GB by tokens of a sequence: 1F1B, Seq1F1B; None: out of memory
    "2.7b": {16384: (51.40, 29.85), 24576: (74.30, 41.45), 32768: (None, 53.10)},
    "7b": {32768: (28.00, 18.90), 65536: (51.40, 34.30), 131072: (None, 69.80)},
}
AXES = {"2.7b": (8, 1), "7b": (4, 8)}


def published_step(preset, seq_len, num_chunks):
    num_ranks, num_tensor = AXES[preset]
    stage = build_stage("gpt", preset=preset, max_positions=seq_len)
    plan = make_plan(
        "seq1f1b", num_ranks=num_ranks, num_microbatches=16, num_chunks=num_chunks
    )
    cost = StageCost.of(stage, (stage.num_layers // num_ranks,) * num_ranks, recompute="none")
    return build_step(
        stage, plan, make_mesh(num_ranks, num_tensor=num_tensor),
        chunk_lengths=balanced_lengths(seq_len, num_chunks, cost, block=128),
        options=ExecutorOptions(
            "xla_blockwise", "none", jnp.bfloat16, sequence_parallel=num_tensor > 1
        ),
    )


def gigabytes(preset, seq_len, num_chunks):
    """A step and its state: float32 parameters and two moments of them."""
    step = published_step(preset, seq_len, num_chunks)
    leaves = jax.tree.leaves(step.abstract_params())
    numbers = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    return (predict_memory(step.program(1)).total + 3 * 4 * numbers) / 1e9


ours = {
    preset: {length: (gigabytes(preset, length, 1), gigabytes(preset, length, 4)) for length in of}
    for preset, of in PUBLISHED.items()
}
print("GB per device     published            predicted here")
print("                  1F1B     Seq1F1B     1F1B    Seq1F1B")
for preset, of in PUBLISHED.items():
    for length, (whole, cut) in of.items():
        whole = "none" if whole is None else f"{whole:.2f}"
        mine = "{:9.2f} {:9.2f}".format(*ours[preset][length])
        print(f"{preset:5}{length:8}{whole:>10}{cut:10.2f} {mine}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained", sharey=True)
for axes, (preset, of) in zip(panels, PUBLISHED.items()):
    lengths, num_ranks = list(of), AXES[preset][0]
    known = {length: cut / whole for length, (whole, cut) in of.items() if whole}
    axes.plot(known.keys(), known.values(), "o", label="published")
    axes.plot(lengths, [cut / whole for whole, cut in ours[preset].values()], "s-", label="here")
    axes.axhline((num_ranks + 3) / (4 * num_ranks), color="gray", linestyle="--",
                 label="(P+C-1)/(PC)")
    for length, (whole, _) in of.items():
        if whole is None:
            axes.annotate("1F1B: out of memory", (length, 0.9), ha="right", fontsize="small")
            axes.axvline(length, color="tab:red", alpha=0.4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length // 1024}k" for length in lengths])
    axes.minorticks_off()
    axes.set_title(f"{preset}, {math.prod(AXES[preset])} GPUs", fontsize="medium")
    axes.set(xlabel="tokens of a sequence", ylim=(0, 1))
    axes.grid(alpha=0.3)
panels[0].set_ylabel("memory, Seq1F1B (C=4) / 1F1B")
panels[0].legend(fontsize="small", loc="lower left")
plt.show()

# %% [markdown]
# The dashed line is what the schedule leaves of the activations; whatever does not shrink with
# them, parameters, optimizer and scratch, lifts the ratio above it. The published ratios are
# higher than ours: that implementation holds keys and values twice and the logits of a whole
# sequence. The prediction against compiled H100 programs is in [published
# sizes](../docs/design/published_sizes.md), every term in [memory](../docs/design/memory.md).
