"""When each action runs: the first pass of the lowering gives every action its tick.

The order of a rank stays as it is. An action that receives or sends a message runs in the first
tick that is free, that comes after its message was sent and that the exchange allows to it. A `W`
shares the tick of the action before it: it runs after that tick's exchange, so no message
waits for it. One stage alone exchanges nothing and runs an action in every tick.
"""

from collections.abc import Mapping

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import execution_order, message_source
from seq1f1b_jax.schedule.exchange import PERIOD
from seq1f1b_jax.schedule.plan import Plan


def assign_ticks(plan: Plan) -> dict[Action, int]:
    """Give each action of a valid plan its tick.

    For `seq1f1b` (and for `terapipe` with a warm-up of everything) on several ranks the ticks have
    a closed form: the forward of unit u on rank p is at `2u+p`, the i-th backward at
    `2(i+C-1+extra_warmup)+2P-1-p`.

    Returns:
      The tick of every action; an action that sends and a `W` may share one.
    """
    ticks: dict[Action, int] = {}
    sent: dict[Action, int] = {}  # by event
    free = [0] * plan.num_ranks  # first tick without a sending action
    free_for_weights = [0] * plan.num_ranks
    for action in execution_order(plan):
        rank = plan.rank(action.stage)
        if action.op is Op.W:
            tick = max(free[rank] - 1, free_for_weights[rank])
            free_for_weights[rank] = tick + 1
            free[rank] = max(free[rank], tick + 1)
        else:
            source = message_source(action, num_stages=plan.num_stages)
            tick = max(free[rank], 0 if source is None else sent[source] + 1)
            if plan.num_stages > 1:
                tick += (plan.exchange.tick_class(action.op, rank) - tick) % PERIOD
            sent[action.event] = tick
            free[rank] = tick + 1
        ticks[action] = tick
    return ticks


def num_ticks(ticks: Mapping[Action, int]) -> int:
    """Ticks of a step, a multiple of the exchange's period."""
    last = max(ticks.values())
    return last + PERIOD - last % PERIOD
