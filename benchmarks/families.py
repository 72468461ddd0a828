"""Every family of checkpoints against `transformers`: logits, gradients through chunks, and export.

    python -m benchmarks.families     about 4 minutes on two cores; needs the extra `hf`

For each row a random tiny model of `transformers` is saved, read, and compared in float32:

    logits      largest difference over the largest logit
    gradient    of the mean loss by every weight, through two stages and two chunks of the sequence;
                largest difference over the largest entry of the same tensor
    export      whether all tensors are written back byte by byte, and what transformers loads from
                that gives the same logits, bit by bit
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import report
from benchmarks.common.cases import use_cpu_devices

LLAMA = {
    "vocab_size": 67, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
    "original_max_position_embeddings": 16, "beta_fast": 2.0, "beta_slow": 0.25,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
GPT2 = {
    "vocab_size": 67, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 40,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}
WINDOW = 5
PAD = 66
"""Not among the tokens: torch gives its row no gradient."""
DEEP = LLAMA | {"num_hidden_layers": 4, "sliding_window": WINDOW, "pad_token_id": PAD}
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA = DEEP | {"head_dim": 12, "query_pre_attn_scalar": 10}
LOCAL = {"rope_type": "default", "rope_theta": 300.0}
LONGROPE = LLAMA | {
    "hidden_size": 64, "pad_token_id": PAD, "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.2, 1.4, 1.6, 2.0],
        "long_factor": [1.5, 2.0, 3.0, 4.0, 6.0, 8.0],
    },
}
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", LLAMA),
    "llama, all heads, wide": ("llama", {**LLAMA, "num_key_value_heads": 4, "head_dim": 20}),
    "llama, tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama, biases": ("llama", {**LLAMA, "attention_bias": True}),
    "llama, biases of the mlp": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, rope llama3": ("llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "llama, rope yarn": ("llama", {**LLAMA, "rope_parameters": YARN}),
    "llama, rope linear": ("llama", {**LLAMA, "rope_parameters": LINEAR}),
    "llama, rope dynamic": (
        "llama",
        {**LLAMA, "max_position_embeddings": 16,
         "rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
    ),
    "mistral": ("mistral", {**LLAMA, "sliding_window": WINDOW}),
    "mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "ministral": (
        "ministral", {**DEEP, "head_dim": 12, "layer_types": [FULL, SLIDING, SLIDING, SLIDING]}
    ),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, tied": ("qwen2", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2, window": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0},
    ),
    "qwen2, window in some layers": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 20}),
    "qwen3, tied": ("qwen3", {**LLAMA, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {**DEEP, "num_hidden_layers": 5, "sliding_window": None}),
    "gemma": ("gemma", {**LLAMA, "head_dim": 12, "pad_token_id": PAD}),
    "gemma2": (
        "gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    ),
    "gemma3": (
        "gemma3_text",
        {**GEMMA, "rope_parameters": {FULL: LINEAR, SLIDING: LOCAL}, "sliding_window_pattern": 3},
    ),
    "gemma3, untied": ("gemma3_text", {**GEMMA, "tie_word_embeddings": False}),
    "olmo2": ("olmo2", {**LLAMA, "pad_token_id": PAD}),
    "olmo3": ("olmo3", {**DEEP, "layer_types": [SLIDING, SLIDING, FULL, SLIDING]}),
    "olmo3, yarn": (
        "olmo3",
        {**DEEP, "rope_parameters": {FULL: YARN, SLIDING: {**LOCAL, "rope_theta": 500.0}}},
    ),
    "phi3": ("phi3", {**LLAMA, "pad_token_id": PAD}),
    "phi3, part of a head": (
        "phi3",
        {**LLAMA, "hidden_size": 64, "sliding_window": WINDOW, "pad_token_id": PAD,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                             "partial_rotary_factor": 0.75}},
    ),
    "phi3, longrope, short": ("phi3", LONGROPE | {"max_position_embeddings": 256}),
    "phi3, longrope, long": (
        "phi3", LONGROPE | {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    ),
    "granite": (
        "granite",
        {**LLAMA, "embedding_multiplier": 3.0, "residual_multiplier": 0.4,
         "attention_multiplier": 0.2, "logits_scaling": 2.0},
    ),
    "seed_oss": ("seed_oss", {**LLAMA, "head_dim": 20, "pad_token_id": PAD}),
    "cwm": (
        "cwm",
        {**DEEP, "head_dim": 12, "rope_parameters": LLAMA3, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "exaone4": ("exaone4", DEEP),
    "exaone4, no window": (
        "exaone4", {**LLAMA, "sliding_window": None, "layer_types": [FULL] * 3}
    ),
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied": ("gpt2", {**GPT2, "tie_word_embeddings": False}),
}
"""Name -> `model_type` and settings. The part of a name before the comma is the family."""
TOKENS = np.random.default_rng(0).integers(0, PAD, (2, 33)).astype(np.int32)


def main(arguments=None) -> int:
    """Compare, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--only", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    use_cpu_devices(2)
    rows = []
    for case in CASES:
        if not options.only or options.only in case:
            rows.append(compare(case))
            print(*rows[-1].values(), sep="  ", flush=True)
    report.show("Against transformers", rows)
    report.finish({
        "families": len({row["case"].partition(",")[0] for row in rows}),
        "rows": len(rows),
        "max_logit_error": max(row["logits"] for row in rows),
        "max_gradient_error": max(row["gradient"] for row in rows),
        "exports_equal": all(row["export"] for row in rows),
    })
    return 0


def compare(case: str) -> dict[str, Any]:
    """One row of the table."""
    from seq1f1b_jax.models import build_stage
    from seq1f1b_jax.models.hf import export, load_canonical, origin_of, read_source

    model = random_model(case)
    expected = torch_logits(model)
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder, "theirs"), Path(folder, "ours")
        model.save_pretrained(theirs)
        source = read_source(theirs)
        fields = source.fields
        trained = fields["rope"].original_max_positions if "rope" in fields else None
        if trained is not None:
            fields["rope"] = replace(fields["rope"], length=TOKENS.shape[1])
        stage = build_stage(**fields)
        params = load_canonical(source, stage)
        row = {
            "case": case,
            "architecture": source.description.architecture,
            "logits": difference(our_logits(stage, params), expected),
            "gradient": gradient_difference(model, stage, params, source.description.rules),
        }
        export(params, stage, ours, origin=origin_of(source))
        again = loaded(ours)
        equal = tensors(ours) == tensors(theirs)
        row["export"] = equal and np.array_equal(torch_logits(again), expected)
    return row


def random_model(case: str):
    """A torch model none of whose weights is zero or one, in float32."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    kind, sizes = CASES[case]
    config = transformers.AutoConfig.for_model(kind, **spelled(sizes, transformers.__version__))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (1.0 if parameter.ndim == 1 else 0.0))
    return model


def loaded(folder: Path):
    """What transformers makes of a folder."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def spelled(sizes: dict[str, Any], version: str) -> dict[str, Any]:
    """The settings as that version spells them; a copy, for it writes into them."""
    sizes = json.loads(json.dumps(sizes))
    if "rope_parameters" in sizes and int(version.split(".")[0]) < 5:
        sizes["rope_scaling"] = sizes.pop("rope_parameters")
        sizes["rope_theta"] = sizes["rope_scaling"].pop("rope_theta")
    return sizes


def torch_logits(model) -> np.ndarray:
    """Logits `[B, T, vocabulary]` of the tokens."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(TOKENS).long()).logits.float().numpy()


def our_logits(stage, params) -> np.ndarray:
    """The same from our model."""
    import jax
    import jax.numpy as jnp

    from seq1f1b_jax.inference import logits

    return np.asarray(jax.jit(logits, static_argnums=0)(stage, params, jnp.asarray(TOKENS)))


def gradient_difference(model, stage, params, rules) -> float:
    """Largest relative difference of a tensor's gradient, ours through two stages and chunks."""
    import jax
    import torch

    from seq1f1b_jax.models.hf.match import wanted
    from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
    from seq1f1b_jax.pipeline.stage import leaf_name
    from seq1f1b_jax.schedule import make_plan

    model.zero_grad()
    tokens = torch.from_numpy(TOKENS).long()
    model(tokens, labels=tokens).loss.backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
    step = build_step(
        stage, plan, make_mesh(2), chunk_lengths=(20, 12),
        options=ExecutorOptions(attention="xla_blockwise"),
    )
    batch = TOKENS[:, None, :-1], TOKENS[:, None, 1:]
    _, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), *batch)
    grads = step.to_canonical(grads)
    leaves = {leaf_name(path): np.asarray(g) for path, g in jax.tree.leaves_with_path(grads)}
    errors = []
    for name, rule, layer in wanted(stage, rules):
        parts = [leaves[leaf][layer] if "{}" in rule.name else leaves[leaf] for leaf in rule.leaves]
        errors.append(difference(rule.to_theirs(parts, stage=stage), found[name]))
    return max(errors)


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest entry."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def tensors(folder: Path) -> dict[str, tuple]:
    """Type, shape and bytes of every tensor of a checkpoint."""
    from seq1f1b_jax.formats.safetensors import open_checkpoint

    files = open_checkpoint(folder)
    return {
        name: (info.dtype, info.shape, files.read(name).tobytes())
        for name, info in files.tensors.items()
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # theirs
    raise SystemExit(main())
