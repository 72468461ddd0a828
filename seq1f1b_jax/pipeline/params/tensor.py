"""How a model's layers are cut over the mesh axis `tensor`."""

from collections.abc import Sequence

import jax
from jax.tree import leaves_with_path
from jax.tree_util import keystr

from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline.stage import Stage


def check_tokens(tensor: TensorAxis, chunk_lengths: Sequence[int]) -> None:
    """Refuse tokens that cannot be shared.

    Raises:
      ValueError: there is nobody to share them with, or a chunk that cannot be cut evenly.
    """
    if tensor.sequence and tensor.size == 1:
        raise ValueError(
            "sequence_parallel shares tokens over the mesh axis 'tensor', and the mesh has none; "
            "leave it off, or give the mesh such an axis (make_mesh(num_tensor=...))"
        )
    odd = [length for length in chunk_lengths if length % tensor.token_parts]
    if odd:
        raise ValueError(
            f"chunks of {odd} tokens cannot be shared by tensor={tensor.size} devices; with "
            f"sequence_parallel every chunk length is a multiple of {tensor.size}"
        )


def tensor_dims(stage: Stage, part: Stage) -> dict[str, int]:
    """Which dim of each leaf of a layer is shorter on one device than in the whole model.

    Args:
      stage: the model.
      part: what one device of the axis `tensor` sees of it.
    """
    whole = jax.eval_shape(stage.init, jax.random.key(0)).layers
    own = jax.eval_shape(part.init, jax.random.key(0)).layers
    dims = {}
    for (path, leaf), part_leaf in zip(leaves_with_path(whole), jax.tree.leaves(own), strict=True):
        cut = [i for i, size in enumerate(leaf.shape[1:]) if part_leaf.shape[1 + i] != size]
        dims |= {keystr(path): dim for dim in cut}
    return dims
