"""Scratch of the largest single action: one allocation serves all actions, one after the other."""

from seq1f1b_jax.schedule.memory import on_cpu
from seq1f1b_jax.schedule.memory.sizes import StepSizes

LEAST_LOSS_BLOCK = 1024
"""Tokens, whatever their logits take. With n tokens a block reads and writes the head's gradient,
8 V d bytes, for 6 n V d operations: at 600 TFLOP/s and 2.7 TB/s that takes 296/n of the time of its
matmuls, 29 % of it at 1024."""


def workspace(sizes: StepSizes) -> int:
    """Bytes beside the carried state: messages, and a layer's backward or the head.

    Everywhere a message that was received, one that is sent and the blank one exist.
    """
    layer_or_head = max(_layer(sizes), _head(sizes, block=loss_block(sizes)))
    return 3 * sizes.message + layer_or_head


def loss_block(sizes: StepSizes) -> int:
    """Tokens of a block of the loss: as many as fit into what a layer's backward takes anyway.

    A layer's backward and the head take turns in the same scratch. So the block is a multiple of
    128, at least `LEAST_LOSS_BLOCK`: the head's gradient is read and written as few times as no
    memory of its own allows.
    """
    if sizes.loss_block is not None:
        return sizes.loss_block
    layer, logits = _layer(sizes), _logits_of_token(sizes)
    fitting = min((layer - others) // (copies * logits) for copies, others in _moments(sizes))
    return max(LEAST_LOSS_BLOCK, fitting // 128 * 128)


def _layer(sizes: StepSizes) -> int:
    if sizes.platform == "cpu" and sizes.train:
        return on_cpu.layer_backward(sizes)
    return _layer_on_gpu(sizes)


def _layer_on_gpu(sizes: StepSizes) -> int:
    """Scratch of a layer's backward, or of its forward in an evaluation, for the largest chunk.

    While a layer runs backward there are, beside the carried state and the messages,

    - its narrow values and their gradients: residuals no wider than a message, read or recomputed,
      and queries, keys and values of the whole prefix (gradients of the latter in the accumulation
      dtype);
    - where devices of `tensor` share tokens, all those that the matmuls of a sublayer see, and
      the gradients by them;
    - one layer's weights, sliced out of the stack or transposed, and the gradients of experts;
    - one after the other the MLP's wide values with their gradients, and attention's scores and
      their gradients, in the accumulation dtype and once more in the compute dtype.

    This holds for every `recompute`: what `selective` and `full` do not store is recomputed.
    """
    scratch = max(_chunk_on_gpu(sizes, chunk) for chunk in range(len(sizes.lengths)))
    experts = sizes.expert_weights * sizes.wide if sizes.train else 0
    return scratch + sizes.layer_weights * sizes.itemsize + experts


def _chunk_on_gpu(sizes: StepSizes, chunk: int) -> int:
    """The same for one chunk, without the weights."""
    item, wide_item, length = sizes.itemsize, sizes.wide, sizes.lengths[chunk]
    values = [value.nbytes * length // sizes.lengths[0] for value in sizes.layer_values]
    message = sizes.message
    narrow = sum(size for size in values if size <= message)
    wide = sum(values) - narrow
    tokens = sum(sizes.lengths[: chunk + 1])
    pairs = sizes.num_sequences * tokens * sizes.num_kv_heads * sizes.kv_dims
    held = max(sizes.scores[chunk].alone, sizes.scores[chunk].largest)
    scores = sizes.num_sequences * sizes.num_heads * held * (item + wide_item)
    gathered = _gathered(sizes, length)
    if sizes.train:
        return 2 * (narrow + gathered) + pairs * (item + wide_item) + max(2 * wide, 2 * scores)
    return narrow + gathered + pairs * item + max(wide, scores)


def _gathered(sizes: StepSizes, length: int) -> int:
    """Bytes of a chunk's tokens on every device, where each has its part of them; else none.

    Where layers are unrolled, tokens for the next matmuls are gathered while those of the last ones
    are still there.
    """
    parts = sizes.token_parts
    return sizes.layer_input(length) * parts * (1 + sizes.unrolled) if parts > 1 else 0


def _head(sizes: StepSizes, *, block: int) -> int:
    """Bytes of the head's largest moment, with logits of so many tokens."""
    tokens = min(sizes.num_sequences * max(sizes.lengths), block)
    logits = tokens * _logits_of_token(sizes)
    return max(copies * logits + others for copies, others in _moments(sizes))


def _moments(sizes: StepSizes) -> tuple[tuple[int, int], ...]:
    """Copies of a block's logits, and bytes beside them, of what the head does one after the other.

    On a GPU logits, their softmax and its gradient, and the gradients of the table and of y; on a
    CPU, which makes the gradient in the memory of the softmax, logits and softmax first, and the
    table's gradient beside one of them.
    """
    if not sizes.train:
        return ((2, 0),)
    rows = 2 * sizes.num_sequences * max(sizes.lengths) * sizes.model_dim * sizes.wide
    table = sizes.vocab_part * sizes.model_dim * sizes.wide * sizes.trains_head
    return ((2, rows), (1, rows + table)) if sizes.platform == "cpu" else ((3, rows + table),)


def _logits_of_token(sizes: StepSizes) -> int:
    return sizes.vocab_part * sizes.wide
