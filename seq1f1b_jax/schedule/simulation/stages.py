"""Balanced stages: layers of each stage, and chunk lengths that follow from them.

The last stage has the head besides its layers: logits, their gradient to its input and the table's,
6 d V FLOPs per token, all in its forward. With as many layers as the others it sets the pace, so it
gets fewer. The embedding is a lookup, for which no matmul waits, and vocabulary tables are gathered
on every rank alike: neither weighs on a stage.

Layers and lengths depend on each other: costs are those of chunks, and chunks are cut for the
slowest stage. Layers come first. What a stage does with a whole sequence is the same however it is
cut, so layers that even it out do so under nearly any cut; but lengths that are cut for a stage
with the head fit no other. So the first cut is that of a stage without a head, as all but one are,
and then layers and lengths take turns until the layers stay.
"""

from collections.abc import Callable
from dataclasses import replace

from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.flops import StageCost
from seq1f1b_jax.schedule.simulation.layers import even_layers, fastest_layers
from seq1f1b_jax.schedule.simulation.makespans import Stopwatch

MAX_TURNS = 4
"""Cuts of one start; two are usual."""


def balanced_layers(
    plan: Plan,
    cost: StageCost,
    cut: Callable[[StageCost], tuple[int, ...]],
    *,
    max_slowdown: float = 0.0,
) -> tuple[int, ...]:
    """Layers of each stage with which a step is shortest, each with the chunk lengths cut for it.

    Never slower than even stages on the executor's machine, and of equals the one whose largest
    stage is smallest: every rank has room for as many layers (`fastest_layers`).

    Args:
      plan: the schedule.
      cost: of the model; how its layers are divided now does not count.
      cut: the chunk lengths for a cost, such as `balanced_lengths` with its other arguments.
      max_slowdown: by how much a step may take longer than the shortest, to save memory: 0.01 is
        1 %.

    Returns:
      Layers of each stage along the model, at least one each.

    Raises:
      ValueError: fewer layers than stages.

    Example:
      >>> from seq1f1b_jax.schedule import StageCost, balanced_lengths, make_plan
      >>> cost = StageCost(model_dim=4096, num_heads=32, num_kv_heads=8, head_dim=128,
      ...                  mlp_dim=14336, gated=True, vocab_size=128256, layers_per_stage=(4,) * 8)
      >>> plan = make_plan("seq1f1b", num_ranks=8, num_microbatches=16, num_chunks=4)
      >>> cut = lambda cost: balanced_lengths(32768, 4, cost, block=128)
      >>> balanced_layers(plan, cost, cut)
      (5, 4, 4, 4, 4, 4, 4, 3)
    """
    num_layers = sum(cost.layers_per_stage)
    if plan.num_stages == 1:
        return (num_layers,)

    def divided(layers: tuple[int, ...]) -> StageCost:
        return replace(cost, layers_per_stage=layers)

    def step_time(layers: tuple[int, ...]) -> float:
        return stopwatch.step_time(divided(layers).costs(cut(divided(layers))))

    stopwatch, even = Stopwatch(plan), divided(even_layers(num_layers, plan.num_stages))
    times = {even.layers_per_stage: step_time(even.layers_per_stage)}
    for start in (replace(even, vocab_size=1), even):
        lengths = cut(start)
        for _ in range(MAX_TURNS):
            divisions = fastest_layers(
                num_layers, stopwatch,
                costs=lambda layers, lengths=lengths: divided(layers).costs(lengths),
            )  # fmt: skip
            new = [division.layers for division in divisions if division.layers not in times]
            if not new:
                break
            times |= {layers: step_time(layers) for layers in new}
            lengths = cut(divided(divisions[-1].layers))
    limit = (1 + max_slowdown) * min(times.values())
    fast = [layers for layers, time in times.items() if time <= limit]
    return min(fast, key=lambda layers: (max(layers), times[layers]))
