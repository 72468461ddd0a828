"""Scratch of a layer's backward as XLA:CPU compiles it.

Read off its buffer assignments (docs/design/memory.md). XLA:CPU runs one operation after the other,
in an order that it chooses for little memory, reads what is stored out of the ring where it is
used, and calls matmuls and sums as functions, whose operands and results exist as a whole.
"""

from seq1f1b_jax.schedule.memory.sizes import StepSizes

LIBRARY_ROWS = 4096
"""Tokens whose norms are functions of a library (YNNPACK), with results as wide as the layer's
input; at 2048 tokens they were not, whatever the width (jax 0.10.2)."""


def layer_backward(sizes: StepSizes) -> int:
    """Bytes beside the carried state, the blank message and those that have just been exchanged.

    The largest of all chunks: the last one, unless its own dK and dV, which nothing has been
    added to, need no buffer yet. That is where a rank has one layer and the loop over it is
    unrolled: the last chunk sets the whole buffer.
    """
    last = len(sizes.lengths) - 1
    unset = _pairs(sizes, last - 1) * sizes.wide if last and sizes.rank_layers == 1 else 0
    return max(
        max(_mlp(sizes, chunk), _attention(sizes, chunk)) - (unset if chunk == last else 0)
        for chunk in range(last + 1)
    ) - (0 if sizes.num_ranks * sizes.stages_per_rank > 1 else 2 * sizes.message)


def _mlp(sizes: StepSizes, chunk: int) -> int:
    """While gradients go through what follows attention, in which there are

    - the layer's narrow values: those no wider than its input, read or recomputed;
    - the gradient of queries, still zero, and both norms' outputs, for the weight gradients;
      where devices of `tensor` share tokens, those of all devices, and of the layer's gradient too;
    - both norms' statistics at full width, from `LIBRARY_ROWS` on;
    - keys and values of the prefix and the chunk, joined, and zeros for their gradients;
    - the MLP's wide values and as many gradients, without those that are read out of the ring;
      where two are multiplied (a gate), all gradients and the gate's sigmoid in any case;
    - of experts, which are loops, all of these, gradients, and zeros that these begin as; and the
      gradients of all experts' weights;
    - scores of a block that is in no loop: they do not depend on a gradient, and are made early;
    - weights, see `_weights`.
    """
    length = sizes.lengths[chunk]
    narrow, wide, largest = _by_width(sizes, sizes.layer_values, length)
    stored = _by_width(sizes, sizes.residuals, length)[1]
    gated = wide > 2 * largest
    mlp = max(2 * wide - stored, wide + largest if gated else 0)
    if sizes.expert_weights:
        mlp = 3 * wide + sizes.expert_weights * sizes.wide
    stream, parts = sizes.layer_input(length), sizes.token_parts
    streams = (1 + (3 * parts if parts > 1 else 2)) * stream
    if sizes.num_sequences * (length // parts) >= LIBRARY_ROWS:
        streams += 2 * stream
    alone = sizes.scores[chunk].alone * _heads(sizes)
    return narrow + streams + _prefix(sizes, chunk) + mlp + alone + _weights(sizes)


def _attention(sizes: StepSizes, chunk: int) -> int:
    """While gradients go through a block of attention, in which there are

    - queries, their gradients and attention's; the layer's input, normalised and not; the
      gradient that goes around attention;
    - keys and values as above;
    - of one block the probabilities, their gradients and those of the scores; of another that is
      in no loop, and waits, the probabilities; and of queries, keys and gradients the block's
      rows, transposed.
    """
    length, scores = sizes.lengths[chunk], sizes.scores[chunk]
    stream = sizes.layer_input(length)
    held = max(3 * scores.largest, 2 * scores.largest + scores.alone)
    rows = 3 * scores.rows * sizes.head_dim
    block = (held + rows) * _heads(sizes)
    return 5 * stream + _prefix(sizes, chunk) + block


def _by_width(sizes: StepSizes, values, length: int) -> tuple[int, int, int]:
    """Bytes of the values no wider than a layer's input, of the others, and of the largest."""
    found = [value.nbytes * length // sizes.lengths[0] for value in values]
    narrow = sum(size for size in found if size <= sizes.layer_input(length))
    return narrow, sum(found) - narrow, max(found)


def _heads(sizes: StepSizes) -> int:
    """Bytes of a number for each sequence and head; a matmul's operands are as wide as its sums."""
    return sizes.num_sequences * sizes.num_heads * sizes.wide


def _pairs(sizes: StepSizes, chunk: int) -> int:
    """Numbers in the keys and values of a chunk and all before it."""
    tokens = sum(sizes.lengths[: chunk + 1])
    return sizes.num_sequences * tokens * sizes.num_kv_heads * sizes.kv_dims


def _prefix(sizes: StepSizes, chunk: int) -> int:
    return _pairs(sizes, chunk) * (sizes.itemsize + sizes.wide)


def _weights(sizes: StepSizes) -> int:
    """A layer's weights, sliced out of their stack, but for the one whose gradients are done.

    The only layer of a rank is not sliced; there is the weight gradient of the widest matmul.
    """
    numbers = max(value.size for value in sizes.layer_values)
    widest = numbers // (sizes.num_sequences * sizes.lengths[0]) * sizes.model_dim
    return (widest if sizes.rank_layers == 1 else sizes.layer_weights - widest) * sizes.itemsize
