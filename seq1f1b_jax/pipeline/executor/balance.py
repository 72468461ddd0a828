"""What routers add to the loss: the balance of each sequence, and a z-loss, whatever the chunks.

Of a layer and a sequence of T tokens, f_e of which chose expert e, that has the probability p_te,

    balance = E * sum over e of (f_e / T) * (sum over t of p_te) / T
    z       = 1/T * sum over t of (log of the softmax's denominator)^2

and the loss gets `balance_loss` times the mean of the first over layers and sequences, and
`router_z_loss` times that of the second. A balance is k where experts are used alike.

The gradient by p_te is f_e times a constant. f_e is of the whole sequence: known, since every chunk
of a sequence goes forward through a stage before the first goes back. So the loss does not depend
on how the sequence is cut, nor on microbatches and pipelines; a microbatch with several sequences
balances each. The tally of a sequence lives as long as the keys and values of its first chunk, and
its place follows from theirs.

Source: Shazeer et al., arXiv 1701.06538, section 4; Fedus et al., Switch Transformers, arXiv
2101.03961, section 2.2, for every layer and sequence on its own as in DeepSeek-V3, arXiv
2412.19437, section 2.1.2; z-loss: Zoph et al., ST-MoE, arXiv 2202.08906, section 2.2.
"""

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jaxtyping import Array, Float

from seq1f1b_jax.ops.router import RouterSums
from seq1f1b_jax.pipeline.executor import buffers
from seq1f1b_jax.pipeline.executor.buffers import State, Tally
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Unit
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.stage import num_experts_of


def balances(program: Program) -> bool:
    """Whether the loss is of the balance of experts, too."""
    return bool(program.train and num_experts_of(program.stage) and program.options.balance_loss)


def add(
    chunk: Chunk, unit: Unit, layer: int | Array, state: State, sums: RouterSums | tuple[()]
) -> State:
    """Add what a layer's router says of a chunk to the tally, and its share to the loss."""
    program = chunk.program
    if not isinstance(sums, RouterSums) or not program.train:
        return state
    loss = state.loss + _z_weight(chunk) * sums.z.sum()
    if not balances(program):
        return state._replace(loss=loss)
    assert state.tally is not None
    so_far = Tally(sums.load, sums.probability)
    if chunk.index > 0:
        so_far = jax.tree.map(jnp.add, _of_sequence(chunk, unit, layer, state), so_far)
    if chunk.is_last:
        loss = loss + _balance_weight(chunk) * (so_far.load * so_far.probability).sum()
    tally = jax.tree.map(
        lambda buffer, value: buffers.write(buffer, value, _place(chunk, unit), layer),
        state.tally, so_far,
    )
    return state._replace(loss=loss, tally=tally)


def with_gradients(
    chunk: Chunk, unit: Unit, layer: int | Array, state: State, dy: Float[Array, "B t d"]
) -> tuple[Array, RouterSums | tuple[()]]:
    """The gradient of `routed_post`'s results: dy, and that of the sums.

    Every device of `tensor` gives its equal share of the latter.
    """
    program = chunk.program
    if not num_experts_of(program.stage):
        return dy, ()
    share = program.tensor.size
    shape = (program.num_sequences, num_experts_of(program.stage))
    zeros = jnp.zeros(shape, program.accumulation_dtype)
    probability = zeros
    if balances(program):
        load = _of_sequence(chunk, unit, layer, state).load
        probability = _balance_weight(chunk) / share * load
    z = jnp.full(shape[:1], _z_weight(chunk) / share, zeros.dtype)
    return dy, RouterSums(zeros, probability, z)


def tally_shapes(program: Program) -> Tally | None:
    """Shapes of `State.tally`."""
    if not balances(program):
        return None
    sequences = program.table.cache_tokens // program.lengths[0]
    shape = (sequences, program.layout.max_layers, program.num_sequences)
    each = Shape((*shape, num_experts_of(program.stage)), program.accumulation_dtype)
    return Tally(each, each)


def _of_sequence(chunk: Chunk, unit: Unit, layer: int | Array, state: State) -> Tally:
    """The tally of the unit's sequence in a layer."""
    return jax.tree.map(
        lambda buffer: buffers.read(buffer, buffer.shape[2:], _place(chunk, unit), layer),
        state.tally,
    )


def _place(chunk: Chunk, unit: Unit) -> Array:
    """Pages of a first chunk do not overlap: each begins in another of so many tokens."""
    return unit.cache_pages[0] // chunk.program.lengths[0]


def _balance_weight(chunk: Chunk) -> Array | float:
    """Of load * probability in the sum of token losses, of which the loss is the mean."""
    program = chunk.program
    factor = program.options.balance_loss * num_experts_of(program.stage)
    return factor / (program.stage.num_layers * program.seq_len**2) * _targets(chunk)


def _z_weight(chunk: Chunk) -> Array | float:
    """Of a token's squared logarithm."""
    program = chunk.program
    factor = program.options.router_z_loss / (program.stage.num_layers * program.seq_len)
    return factor * _targets(chunk)


def _targets(chunk: Chunk) -> Array | float:
    return chunk.inputs.sequence_targets
