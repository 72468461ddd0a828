"""The axes of the device mesh: name and size of each, what is sharded over it, its collectives.

All axes are manual in one `jax.shard_map`; an array is replicated over an axis that its entry does
not name. `benchmarks.common.placement` counts the collectives of a compiled step by axis and
position, and `tests/pipeline` holds their number.

Adding an axis touches:

- this file: its description;
- `config/pipeline.py` (`MeshConfig`), `config/checks.py`, `cli/devices.py` and `pipeline/mesh.py`:
  its size and position;
- `pipeline/params/sharding.py`: the dims of batch, parameters, gradients and optimizer state that
  are sharded over it (`pipeline/params/layout.py` if rows of a leaf move);
- `pipeline/step.py` and `weights.collect_gradients`: sums of loss and gradients over it;
- a module for the computation that communicates over it, as `ops/tensor.py` is for `TENSOR`.
"""

from jax.sharding import Mesh

DATA = "data"
"""Pipelines that share the sequences of every microbatch (`mesh.data`, default 1).

Sharded: tokens, targets and document starts by sequence; gradients and optimizer state by the first
free dim that the size divides. Collectives: loss and gradients are summed once, at the end of a
step; updated parameters are gathered after the optimizer.
"""

PIPE = "pipe"
"""Ranks of a pipeline (`mesh.pipe`, default: as many as the devices give).

Sharded: stacked layers by stage, vocabulary tables by row. Collectives: in every tick of the scan
one exchange between neighbours, and no other inside it, since ranks run different actions; before
and after the scan one all-to-all of the tables; loss and small trees are summed after it.
"""

TENSOR = "tensor"
"""Devices that share every layer of a stage (`mesh.tensor`, default 1).

Sharded: attention heads, MLP columns and vocabulary rows; with `mesh.sequence_parallel` also the
tokens of the residual stream. Collectives: inside actions, whose devices agree on what they run:
at the start and the end of a sublayer, around lookup and loss; once per step, gradients of weights
that are replicated over it.
"""


def axis_size(mesh: Mesh, axis: str) -> int:
    """Devices along an axis, 1 where the mesh does not have it."""
    return dict(mesh.shape).get(axis, 1)
