# %% [markdown]
# # Bring your own model and text
#
# The executor asks a model for a few pure functions, and a run asks for text. Both are written
# here: a transformer whose attention and MLP stand side by side, as in GPT-J, in plain JAX; and a
# file of text. Neither is known to the package, which has to be importable (`pip install -e .` in
# a clone).

# %%
import shutil
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.utils.capture import capture_output

from seq1f1b_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.pipeline import Params, build_step, check_stage, make_mesh
from seq1f1b_jax.schedule import make_plan
from seq1f1b_jax.training.trainer import Trainer

jax.config.update("jax_num_cpu_devices", 2)  # before the first use of JAX; GPUs ignore it
num_ranks = min(2, jax.device_count())

# %% [markdown]
# ## The model
#
# A layer is split around attention, which the executor calls itself, because the keys and values
# of earlier chunks are in its cache: `pre` makes queries, keys and values, `post` does the rest.
# `init` gives the leaves of all layers stacked, `[num_layers, ...]`. Everything else is yours.

# %%
@dataclass(frozen=True)
class SideBySide:
    """Attention and MLP read the same normalised input, and both add to the residual stream."""

    num_layers: int = 4
    model_dim: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 32
    vocab_size: int = 256
    tied: bool = True

    def init(self, key):
        d, layers = self.model_dim, self.num_layers
        shapes = {"qkv": (d, 3 * d), "o": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
        keys = jax.random.split(key, len(shapes) + 1)
        weights = {
            name: jax.random.normal(key, (layers, *shape)) / shape[0] ** 0.5
            for key, (name, shape) in zip(keys, shapes.items())
        }
        table = 0.02 * jax.random.normal(keys[-1], (self.vocab_size, d))
        return Params(
            embedding=table, first={}, layers=weights | {"scale": jnp.ones((layers, d))},
            last={"scale": jnp.ones(d)}, head=None,
        )

    def context(self, positions):
        """Angles of rotary positions, made once for a chunk."""
        angles = positions[..., None, None] * 10000.0 ** (-jnp.linspace(0, 1, self.head_dim // 2))
        return jnp.cos(angles), jnp.sin(angles)

    def embed(self, first, x, positions):
        return x

    def pre(self, layer, x, context):
        qkv = self.normalised(layer, x) @ layer["qkv"]
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], -1, self.head_dim), 3, axis=2)
        return rotated(q, context), rotated(k, context), v

    def post(self, layer, x, attended):
        hidden = jax.nn.gelu(self.normalised(layer, x) @ layer["up"])
        return x + attended.reshape(x.shape) @ layer["o"] + hidden @ layer["down"]

    def final(self, last, y):
        return self.normalised(last, y)

    def normalised(self, weights, x):
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide**2, axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(mean_square + 1e-6)).astype(x.dtype) * weights["scale"]


def rotated(x, context):
    cos, sin = (part.astype(x.dtype) for part in context)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate((a * cos - b * sin, a * sin + b * cos), axis=-1)


# %% [markdown]
# ## Checked before it runs
#
# The rules are few, and read off the program of every function: shapes and dtypes pass through,
# and no function looks at another token, since the executor calls it with one chunk at a time. A
# model that breaks one is refused with its name and the rule:

# %%
class LooksAhead(SideBySide):
    """Reads the next token, which may be in a chunk that does not exist yet."""

    def post(self, layer, x, attended):
        return super().post(layer, jnp.roll(x, -1, axis=1), attended)


stage = SideBySide()
check_stage(stage)
try:
    check_stage(LooksAhead())
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ## Exact
#
# The pipeline's gradients are those of `jax.grad` on whole sequences, for this model as for any
# other.

# %%
plan = make_plan("seq1f1b", num_ranks=num_ranks, num_microbatches=4, num_chunks=2)
step = build_step(stage, plan, make_mesh(num_ranks), chunk_lengths=(72, 56))
params = step.init(jax.random.key(0))
rows = jax.random.randint(jax.random.key(1), (4, 1, 129), 0, stage.vocab_size)
tokens, targets = rows[..., :-1], rows[..., 1:]
_, grads = jax.jit(step.loss_and_grads)(params, tokens, targets)
expected = jax.jit(jax.grad(lambda p: reference_loss(stage, p, tokens, targets)))(
    step.to_canonical(params)
)


def difference(actual, expected):
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


errors = jax.tree.leaves(jax.tree.map(difference, step.to_canonical(grads), expected))
print(f"largest relative difference of {len(errors)} leaves, float32: {max(errors):.1e}")
assert max(errors) < 1e-5

# %% [markdown]
# ## The text
#
# Any text file, or a folder of them. Here it is Python's own language reference, which every
# Python brings along.

# %%
folder = Path("runs/own_model")
shutil.rmtree(folder, ignore_errors=True)  # so that every run of the notebook starts afresh
folder.mkdir(parents=True)
text = "\n\n".join(topics.values())
(folder / "text.txt").write_text(text, encoding="utf-8")
print(f"{len(text):,} characters; they begin\n{text[:300]}")

# %% [markdown]
# ## A run
#
# `Trainer` is `train.py` without the command line: it says what will happen, trains, evaluates,
# writes checkpoints, and continues from them if it is called again. Its progress bar is captured
# here, so that the output is what it says before it starts.

# %%
config = Config(
    mesh=MeshConfig(pipe=num_ranks),
    data=DataConfig(source=str(folder / "text.txt"), seq_len=128),
    schedule=ScheduleConfig(num_microbatches=4, num_chunks=2, block=16),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=10),
    train=TrainConfig(
        num_steps=250, eval_every=50, eval_sequences=32, sample_tokens=0,
        output_dir=str(folder / "run"),
    ),
)
trainer = Trainer(stage, config)
with capture_output() as captured:
    lines = trainer.train()
print(captured.stdout.partition("\n\n")[0])

# %%
training = [(line["step"] + 1, line["loss"]) for line in lines if "loss" in line]
held_out = [(line["step"] + 1, line["held_out_loss"]) for line in lines if "held_out_loss" in line]
bigram = lines[-1]["bigram_loss"]
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(*zip(*training), alpha=0.5, label="training batch")
axes.plot(*zip(*held_out), "o-", label="held out")
axes.axhline(bigram, color="gray", linestyle="--", label="bigram model, held out")
axes.set(xlabel="steps", ylabel="loss, nats per byte", xlim=0)
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %%
trainer.generate("The ", num_tokens=200, temperature=0.8, seed=1)

# %% [markdown]
# The same class trains from the command line, `--model.stage module:SideBySide`, and with more
# devices: [a custom model](../docs/own_model.md) has the whole protocol, layers sharded over
# devices included. Text with a real tokenizer and documents packed without attending to each
# other are in [data](../docs/data.md).
