# %% [markdown]
# # Train on one device
#
# A small language model on the source code of Python's standard library, byte by byte, with every
# sequence cut into chunks: on one GPU, for instance Colab's, or on a CPU. Then the question that
# matters: are its gradients those of whole sequences?
#
# The first cell finds the package or installs it. In a clone it takes the clone; elsewhere it
# clones the repository, whose address it asks for.

# %%
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # @param {type:"string"}

if importlib.util.find_spec("seq1f1b_jax") is None:
    clone = Path("..").resolve()
    if not (clone / "seq1f1b_jax").is_dir():
        clone = Path("seq1f1b-jax").resolve()
        if not clone.is_dir():
            assert REPOSITORY, "REPOSITORY is empty; give the address to clone from, and run again"
            subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, clone], check=True)
    package = f"{clone}[cuda12]" if shutil.which("nvidia-smi") else str(clone)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", package], check=True)
    sys.path.insert(0, str(clone))  # what is installed now, only the next process would find

import jax

device = jax.devices()[0]
print("running on", "a CPU" if device.platform == "cpu" else f"a GPU, {device.device_kind}")

# %%
import matplotlib.pyplot as plt
import numpy as np

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.data import load_corpus, make_data
from seq1f1b_jax.inference import generate, reference_loss
from seq1f1b_jax.models import build_stage, num_params
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import even_lengths, make_plan
from seq1f1b_jax.training import init_state, make_train_step
from seq1f1b_jax.training.evaluation import bigram_loss
from seq1f1b_jax.training.optimizer import make_optimizer

# %% [markdown]
# ## Text
#
# Sequences of 256 bytes. Some are held out, never trained on.

# %%
seq_len, num_microbatches, num_chunks, num_steps = 256, 4, 4, 240
data = make_data(load_corpus("stdlib"), seq_len=seq_len, eval_fraction=0.05, seed=0)
batch = data.batch(0, num_microbatches=num_microbatches, microbatch_size=1)
held_out = data.held_out(32, num_microbatches=num_microbatches, microbatch_size=1)
tokenizer = data.corpus.load_tokenizer()
print(f"{data.corpus.tokens.size:,} bytes; a batch is {batch.tokens.shape}, and begins")
print(tokenizer.decode(batch.tokens[0, 0, :200].tolist()))

# %% [markdown]
# ## Model, plan, step
#
# One device is a pipeline of one rank: nobody waits, so the chunks may be equally long, and since
# a backward begins with the last chunk, the activations of a whole sequence are kept. What chunks
# save here is the scratch of an action; what they save on several ranks is in [where the memory
# goes](where_the_memory_goes.ipynb).

# %%
stage = build_stage("llama", preset="small", max_positions=seq_len)
mesh = make_mesh(1)


def step_with(num_chunks, **options):
    sizes = dict(num_ranks=1, num_microbatches=num_microbatches, num_chunks=num_chunks)
    plan = make_plan("seq1f1b", **sizes)
    lengths = even_lengths(seq_len, num_chunks, block=32)
    return build_step(stage, plan, mesh, chunk_lengths=lengths, options=ExecutorOptions(**options))


step = step_with(num_chunks)
print(f"{num_params(stage):,} parameters, chunks of {step.table.chunk_lengths} bytes")

# %% [markdown]
# ## Train
#
# `make_train_step` puts loss, gradients and the update into one program. The bar to clear is the
# bigram model: how well the previous byte alone predicts the next one.

# %%
optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3, warmup_steps=20), num_steps)
state = init_state(step, optimizer, step.init(jax.random.key(0)))
train_step = make_train_step(step, optimizer)
evaluate = jax.jit(step.loss)


def held_out_loss(params):
    return float(np.mean([evaluate(params, part.tokens, part.targets) for part in held_out]))


losses, evaluations = [], {0: held_out_loss(state.params)}
for index in range(num_steps):
    batch = data.batch(index, num_microbatches=num_microbatches, microbatch_size=1)
    state, metrics = train_step(state, batch.tokens, batch.targets)
    losses.append(float(metrics.loss))
    if (index + 1) % 60 == 0:
        evaluations[index + 1] = held_out_loss(state.params)
        print(f"step {index + 1}: held-out loss {evaluations[index + 1]:.3f} nats per byte")

# %%
bigram = bigram_loss(data, held_out)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(range(1, num_steps + 1), losses, alpha=0.5, label="training batch")
axes.plot(evaluations.keys(), evaluations.values(), "o-", label="held out")
axes.axhline(bigram, color="gray", linestyle="--", label="bigram model, held out")
axes.set(xlabel="steps", ylabel="loss, nats per byte", xlim=(0, num_steps))
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# ## Sample
#
# After so few steps it has some words and the lines of Python, and no sense. `train.py` trains
# the same model longer.

# %%
params = step.to_canonical(state.params)
prompt = np.asarray([tokenizer.encode("def ")], np.int32)
sampled = generate(
    stage, params, prompt, num_tokens=200, key=jax.random.key(1), temperature=0.8, top_p=0.95
)
print("def " + tokenizer.decode(sampled[0].tolist()))

# %% [markdown]
# ## Chunks against whole sequences
#
# Now the trained model's gradients for one batch, twice: chunk by chunk, where the loss of chunk
# 3 reaches chunk 0 through keys and values that were cached; and by plain `jax.grad` of the same
# model on whole sequences, without any pipeline. If a piece of the gradient were lost between
# chunks, some leaf would show it. In float64 what is left is rounding, 1e-16 per operation; in
# float32 1e-7.

# %%
def gradients(dtype, num_chunks):
    """Of `jax.grad` on whole sequences, and of the step; leaves by name."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        weights = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
        chunked = step_with(num_chunks, compute_dtype=dtype, attention="xla_blockwise")
        on_mesh = chunked.from_canonical(weights)
        _, ours = jax.jit(chunked.loss_and_grads)(on_mesh, batch.tokens, batch.targets)
        whole = jax.jit(jax.grad(lambda p: reference_loss(
            stage, p, batch.tokens, batch.targets, compute_dtype=dtype)))(weights)
        leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(whole))
        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
        return {
            name: (expected, actual)
            for name, (_, expected), actual in zip(
                names, leaves, jax.tree.leaves(chunked.to_canonical(ours))
            )
        }


def difference(expected, actual):
    """Largest difference of a leaf over its largest entry."""
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


double, single = gradients("float64", 4), gradients("float32", 4)
print(f"{'leaf':30} {'largest entry':>13} {'float64':>9} {'float32':>9}")
for name, (expected, actual) in double.items():
    errors = f"{difference(expected, actual):9.1e} {difference(*single[name]):9.1e}"
    print(f"{name:30} {np.max(np.abs(expected)):13.2e} {errors}")

# %%
assert all(difference(*leaves) < 1e-10 for leaves in double.values())
assert all(difference(*leaves) < 1e-5 for leaves in single.values())

# %% [markdown]
# How every schedule, mesh and policy is held to this is in
# [exactness](../docs/design/exactness.md). Next: [where the memory
# goes](where_the_memory_goes.ipynb), or [your own model and
# text](bring_your_own_model_and_text.ipynb).
