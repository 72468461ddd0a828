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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import report
from benchmarks.common.cases import use_cpu_devices
from benchmarks.common.checkpoints import CASES, PAD

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

    from seq1f1b_jax.models.hf.match import wanted
    from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
    from seq1f1b_jax.pipeline.stage import leaf_name
    from seq1f1b_jax.schedule import make_plan

    found = torch_gradients(model)
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
    for name, rule, index in wanted(stage, rules):
        parts = [leaves[leaf][index] if index else leaves[leaf] for leaf in rule.leaves]
        errors.append(difference(rule.to_theirs(parts, stage=stage), found[name]))
    return max(errors)


def torch_gradients(model) -> dict[str, np.ndarray]:
    """By the names of a checkpoint: saved in the place of the weights, which are lost."""
    import torch

    from seq1f1b_jax.formats.safetensors import open_checkpoint

    model.zero_grad()
    tokens = torch.from_numpy(TOKENS).long()
    model(tokens, labels=tokens).loss.backward()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
        model.save_pretrained(folder)
        files = open_checkpoint(folder)
        return {name: np.array(files.read(name)) for name in files.tensors}


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
