"""Tables of costs that follow a formula, as if they had been measured."""

from random import Random

from seq1f1b_jax.schedule import StageCost
from seq1f1b_jax.schedule.simulation.cost_table import CostTable, Row
from seq1f1b_jax.schedule.simulation.fit import Terms
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts

LAYER = Terms(action=2e-4, tokens=3e-6, pairs=1e-9, keys=2e-7)
FACTORS = {"F": 1.0, "B": 2.25, "I": 1.5, "W": 0.75}
HEAD, EMBEDDING = 4e-6, 5e-7
"""Seconds per token, of the forward."""


def sizes_of(*layers_per_stage, **fields) -> StageCost:
    """A small model on so many stages."""
    fields = {"vocab_size": 256, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16} | fields
    return StageCost(
        model_dim=64, mlp_dim=256, gated=False, layers_per_stage=layers_per_stage, **fields
    )


def made_table(
    seq_len, lengths, *, layer=LAYER, head=HEAD, ops="FB", num_layers=2, sizes=None, **conditions
) -> CostTable:
    """Rows at the start, the middle and the end of a sequence, exactly as the formula says."""
    sizes = sizes or sizes_of(num_layers)
    rows = []
    for op in ops:
        for length in lengths:
            for offset in sorted({0, (seq_len - length) // 2, seq_len - length}):
                pairs = sizes.pairs(offset + length) - sizes.pairs(offset)
                seconds = layer.seconds(Terms(1, length, pairs, offset + length))
                forward = op == "F"
                rows.append(
                    Row(
                        op, length, offset, num_layers * FACTORS[op] * seconds,
                        EMBEDDING * length * forward, head * length * forward, 0.01,
                    )
                )  # fmt: skip
    return CostTable(num_layers, seq_len, conditions, tuple(rows))


def random_costs(seed, *, num_ranks, block, num_blocks) -> MeasuredCosts:
    """A model in which attention, actions or the head may weigh much or nothing."""
    draw = Random(seed)
    token = 1e-6
    layer = Terms(
        action=draw.choice((0, 1, 3)) * block * token, tokens=token,
        pairs=draw.choice((0, 1, 4)) * token / (block * num_blocks),
        keys=draw.choice((0, 0.3)) * token,
    )
    seq_len, head = block * num_blocks, draw.choice((0, 0.5, 2)) * token
    lengths = sorted({block, 2 * block, seq_len // 2})
    table = made_table(seq_len, lengths, layer=layer, head=head)
    return MeasuredCosts(table, sizes_of(*(2,) * num_ranks))
