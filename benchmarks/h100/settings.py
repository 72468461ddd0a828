"""The settings that are counted; their programs, built, compiled for H100s, kept in a folder."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

BLOCK = 128


@dataclass(frozen=True)
class Setting:
    """A model on machines.

    Attributes:
      family: as `build_stage`.
      preset: its sizes, the number of layers aside.
      pipe: ranks.
      tensor: ranks that share a layer, with sequence-parallel norms.
      num_microbatches: of one sequence each.
      num_chunks: balanced.
      seq_len: tokens of a sequence.
      attention: backend.
      recompute: policy.
      layers: of a stage.
      unroll: `ExecutorOptions.unroll`.
      halves: `ExecutorOptions.halves`, where there is a `tensor`.
      offload: `ExecutorOptions.offload`.
    """

    family: str
    preset: str
    pipe: int = 8
    tensor: int = 1
    num_microbatches: int = 8
    num_chunks: int = 4
    seq_len: int = 32768
    attention: str = "cudnn"
    recompute: str = "selective"
    layers: int = 2
    unroll: int | Literal["auto"] = "auto"
    halves: bool = False
    offload: float = 0.0

    @property
    def axes(self) -> dict[str, int]:
        """The mesh, a `tensor` of one device left out."""
        return {"pipe": self.pipe, **({"tensor": self.tensor} if self.tensor > 1 else {})}


SETTINGS: dict[str, Setting] = {
    "1b": Setting("llama", "1.3b", pipe=1),
    "7b": Setting("llama", "7b"),
    "30b": Setting("gpt", "30b", tensor=8, seq_len=65536),
}


def options_of(setting: Setting):
    """The executor's options."""
    import jax.numpy as jnp

    from seq1f1b_jax.pipeline import ExecutorOptions

    return ExecutorOptions(
        setting.attention, setting.recompute, jnp.bfloat16, unroll=setting.unroll,
        sequence_parallel=setting.tensor > 1, halves=setting.halves and setting.tensor > 1,
        offload=setting.offload,
    )  # fmt: skip


def build(setting: Setting, *, mesh=None):
    """The pipelined step; for H100s without a device, unless a mesh is given."""
    from dataclasses import replace

    from benchmarks.common.shapes import h100s
    from seq1f1b_jax.models import build_stage
    from seq1f1b_jax.ops.attention import get_backend
    from seq1f1b_jax.pipeline import build_step
    from seq1f1b_jax.schedule import StageCost, balanced_lengths, make_plan

    stage = build_stage(
        setting.family, preset=setting.preset, num_layers=setting.layers * setting.pipe,
        max_positions=setting.seq_len,
    )  # fmt: skip
    cost = StageCost.of(stage, (setting.layers,) * setting.pipe, recompute=setting.recompute)
    lengths = balanced_lengths(setting.seq_len, setting.num_chunks, cost, block=BLOCK)
    plan = make_plan(
        "seq1f1b", num_ranks=setting.pipe, num_microbatches=setting.num_microbatches,
        num_chunks=setting.num_chunks,
    )  # fmt: skip
    mesh = h100s(setting.axes) if mesh is None else mesh
    step = build_step(
        stage, plan, mesh, chunk_lengths=tuple(lengths), options=options_of(setting)
    )
    platform = mesh.devices.flat[0].platform
    return replace(step, attention=get_backend(setting.attention, platform=platform))


@dataclass(frozen=True)
class Compiled:
    """A compiled step.

    Attributes:
      text: the program.
      thunks: what the host launches, as XLA dumps it; empty if it was not dumped.
      names: of the thunks.
      seconds: that tracing and compiling took.
      held: bytes that a device holds.
      host: bytes of host memory that it has beside.
    """

    text: str
    thunks: str
    names: str
    seconds: float
    held: int
    host: int = 0


def compile_step(step, *, dumps: Path) -> Compiled:
    """Compile the training step, update and all.

    Args:
      step: from `build`.
      dumps: the folder of `--xla_dump_to`; the step's dumps in it are read and removed.
    """
    from benchmarks.published_sizes import abstract_state, compile_train_step, held_bytes

    compiled, seconds = compile_train_step(step, abstract_state(step))
    memory = compiled.memory_analysis()
    held, _ = held_bytes(memory)
    found = {path.name: path for path in dumps.glob("*jit_train_step.*")}
    thunks = _text(found, "thunk_sequence_after_thunk_passes")
    names = _text(found, "thunk_metadata")
    for path in found.values():
        path.unlink()
    host = memory.host_temp_size_in_bytes
    return Compiled(compiled.as_text(), thunks, names, seconds, held, host)


def _text(files: dict[str, Path], name: str) -> str:
    paths = [path for file, path in files.items() if re.search(rf"\.{name}\.txt$", file)]
    return paths[0].read_text(encoding="utf-8") if paths else ""


def save(compiled: Compiled, folder: Path, *, made: str) -> None:
    """Write the texts and the figures into a folder, and what they were made from."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = asdict(compiled)
    for name in ("text", "thunks", "names"):
        (folder / f"{name}.txt").write_text(facts.pop(name), encoding="utf-8")
    (folder / "facts.json").write_text(json.dumps({"made": made, **facts}), encoding="utf-8")


def load(folder: Path, *, made: str) -> Compiled | None:
    """What `save` wrote; `None` if there is nothing.

    Raises:
      ValueError: it was made from something else.
    """
    path = folder / "facts.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if (found := facts.pop("made")) != made:
        raise ValueError(f"{folder} holds {found}, not {made}; give another folder to --keep")
    texts = {
        name: (folder / f"{name}.txt").read_text(encoding="utf-8")
        for name in ("text", "thunks", "names")
    }
    return Compiled(**texts, **facts)
