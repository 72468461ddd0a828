"""Peak host memory of a process that makes, reads or writes its shard of a model, over the shard.

    python -m benchmarks.init_memory      about 5 minutes on two cores, with 8 GB of memory and disk

Two processes with one CPU device each, joined over Gloo, on the meshes pipe=2 and data=2. A CPU
device uses host memory, so 1 is the lower bound: the arrays themselves. The model is a llama of
309 M parameters, 1.24 GB in float32, a third of it vocabulary tables.

    init      parameters from a key                                  share: of the parameters
    import    parameters from safetensors in float32                 likewise
    restore   parameters and AdamW's moments from a checkpoint,      share: of the state
              saved on the same mesh and on the other one
    export    a checkpoint's parameters to safetensors, by one       share: of the parameters
              process, while the other waits

The peak is `VmHWM` of a fresh process (Linux), minus that of one that does the same with a narrow
model of as many layers, which accounts for libraries and compiled programs.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from benchmarks.common import report
from benchmarks.common.processes import run_processes
from seq1f1b_jax.config import Config, DataConfig, MeshConfig
from seq1f1b_jax.distributed import Group
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export, load_rows, read_source
from seq1f1b_jax.pipeline import Stage
from seq1f1b_jax.pipeline.params.fresh import fresh
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, open_state
from seq1f1b_jax.training.checkpoint.restore import abstract_state, place_state
from seq1f1b_jax.training.setup import Setup, make_setup
from seq1f1b_jax.training.step import init_state

MESHES = ("pipe=2", "data=2")
CASES = ("init", "import", "restore", "export")


@dataclass(frozen=True)
class Sizes:
    """A llama; heads are of 64."""

    num_layers: int = 16
    model_dim: int = 1024
    mlp_dim: int = 2816
    vocab_size: int = 50304

    def stage(self) -> Stage:
        """The model."""
        return build_stage("llama", num_heads=self.model_dim // 64, **asdict(self))


NARROW = Sizes(model_dim=64, mlp_dim=128, vocab_size=256)


def main(arguments=None) -> int:
    """Run, print the table and the line of JSON; the exit status is 0."""
    options = _parser().parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    rows = measure(Sizes(num_layers=options.layers, vocab_size=options.vocabulary))
    report.show("peak of a process over its share", rows)
    report.finish(summary(rows), path=options.out)
    return 0


def measure(sizes: Sizes, *, cases: tuple[str, ...] = CASES) -> list[dict[str, Any]]:
    """A row for each case and mesh; the folders of weights are deleted afterwards."""
    with TemporaryDirectory() as wide, TemporaryDirectory() as narrow:
        narrow_sizes = replace(NARROW, num_layers=sizes.num_layers)
        folders = {Path(wide): sizes, Path(narrow): narrow_sizes}
        if cases != ("init",):
            for folder, of in folders.items():
                prepare(of, folder)
        return [
            row(case, mesh, source, folders)
            for case in cases
            for mesh in MESHES
            for source in (MESHES if case == "restore" else ("",))
        ]


def prepare(sizes: Sizes, folder: Path) -> None:
    """Weights as safetensors, and a checkpoint of either mesh."""
    work = {"sizes": asdict(sizes), "folder": str(folder)}
    run_processes("benchmarks.init_memory:write_weights", work, num_processes=1)
    for mesh in MESHES:
        run_processes("benchmarks.init_memory:write_state", work | {"mesh": mesh}, num_processes=2)


def row(case: str, mesh: str, source: str, folders: Mapping[Path, Sizes]) -> dict[str, Any]:
    """One line of the table: the process with the larger ratio."""
    wide, narrow = (
        run_processes(
            "benchmarks.init_memory:worker",
            {
                "case": case, "mesh": mesh, "source": source, "sizes": asdict(sizes),
                "folder": str(folder),
            },
            num_processes=2, keep_memory=False,
        )
        for folder, sizes in folders.items()
    )  # fmt: skip
    found = [
        {
            "case": case, "mesh": mesh, "saved on": source or None,
            "share_mb": own["share_bytes"] / 1e6,
            "peak_mb": (own["peak_bytes"] - least["peak_bytes"]) / 1e6,
            "baseline_mb": least["peak_bytes"] / 1e6,
            "ratio": (own["peak_bytes"] - least["peak_bytes"]) / own["share_bytes"],
        }
        for own, least in zip(wide, narrow, strict=True)
    ]  # fmt: skip
    return max(found, key=lambda process: process["ratio"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of each case, and of all."""
    worst = {case: max(r["ratio"] for r in rows if r["case"] == case) for case in CASES}
    return {"peak_over_share": worst, "worst": max(worst.values()), "rows": rows}


def write_weights(sizes: Mapping[str, Any], folder: str) -> None:
    """The model as safetensors; in a process of its own."""
    stage = Sizes(**sizes).stage()
    export(fresh(stage, jax.random.key(0)), stage, Path(folder, "weights"))


def write_state(sizes: Mapping[str, Any], folder: str, mesh: str) -> None:
    """A checkpoint of step 1, as training writes it; in both processes."""
    setup = setup_of(sizes, mesh)
    params = setup.pipeline.init(jax.random.key(0))
    state = init_state(setup.pipeline, setup.optimizer, params)
    with Checkpointer(Path(folder, mesh), keep=1, group=group()) as checkpointer:
        checkpointer.save(
            1, state, meta={}, like=abstract_state(setup), layout=setup.pipeline.layout
        )


def worker(
    case: str, mesh: str, source: str, sizes: Mapping[str, Any], folder: str
) -> dict[str, int]:
    """One case in one of the two processes: its peak memory, and its share."""
    setup, root = setup_of(sizes, mesh), Path(folder)
    pipeline = setup.pipeline
    share = pipeline.abstract_params()
    if case == "init":
        share = pipeline.init(jax.random.key(0))
    elif case == "import":
        weights = load_rows(read_source(root / "weights"), setup.stage)
        share = pipeline.from_canonical(weights)
    elif case == "restore":
        share = place_state(find_checkpoint(root / source), setup)
    elif case == "export" and jax.process_index() == 0:
        like = abstract_state(setup).params
        rows = open_state(find_checkpoint(root / mesh), like, under="params.")
        export(rows, setup.stage, root / f"exported from {mesh}")
    jax.block_until_ready(share)
    group().barrier("done")
    return {"peak_bytes": peak_bytes(), "share_bytes": sum(shard_bytes(share))}


def setup_of(sizes: Mapping[str, Any], mesh: str) -> Setup:
    """The setup of a run on one of the two meshes."""
    axis, size = mesh.split("=")
    axes = MeshConfig(**({"pipe": 1, "data": 1} | {axis: int(size)}))
    config = Config(mesh=axes, data=DataConfig(microbatch_size=2))
    return make_setup(config, Sizes(**sizes).stage())


def group() -> Group:
    """The two processes."""
    from jax._src import distributed

    return Group(jax.process_index(), jax.process_count(), distributed.global_state.client)


def shard_bytes(tree: Any) -> Iterator[int]:
    """Bytes of every leaf on the one device of this process."""
    for leaf in jax.tree.leaves(tree):
        yield leaf.dtype.itemsize * prod(leaf.sharding.shard_shape(leaf.shape))


def peak_bytes() -> int:
    """Peak memory of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.init_memory", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", type=int, default=Sizes.num_layers)
    parser.add_argument("--vocabulary", type=int, default=Sizes.vocab_size)
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/init_memory.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
