"""What an action waits for, and an order that respects it.

For stage s, microbatch m and chunk c:

    F(s,m,c) after F(s-1,m,c)   the activation comes from the stage before
             after F(s,m,c-1)   the chunk attends to the keys and values of those before it
    B(s,m,c) after F(s,m,c)     the residuals are there
             after B(s+1,m,c)   the gradient comes from the stage after
             after B(s,m,c+1)   only then is the gradient of the chunk's keys and values complete
    W(s,m,c) after I(s,m,c)     the gradients of the matmuls' outputs are there

An `I` waits for what a `B` waits for, and what waits for a `B` may be served by an `I`.
"""

from collections.abc import Iterator

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.plan import Plan


def local_dependencies(action: Action, *, num_chunks: int) -> dict[Action, str]:
    """Map each event of the same stage that must come first to the reason."""
    stage, microbatch, chunk = action.stage, action.microbatch, action.chunk
    if action.op is Op.F:
        if chunk == 0:
            return {}
        before = Action(Op.F, stage, microbatch, chunk - 1)
        return {before: "a chunk attends to the keys and values of the chunks before it"}
    if action.op is Op.W:
        half = Action(Op.B, stage, microbatch, chunk)
        return {half: "weight gradients need what the input gradient's half computes"}
    needs = {Action(Op.F, stage, microbatch, chunk): "a backward reads what its forward kept"}
    if chunk < num_chunks - 1:
        after = Action(Op.B, stage, microbatch, chunk + 1)
        needs[after] = "keys and values of a chunk collect gradients from the chunks after it"
    return needs


def message_source(action: Action, *, num_stages: int) -> Action | None:
    """Return the event of another stage whose message this action consumes.

    None at the ends of the model, and for a `W`.

    Example:
      >>> from seq1f1b_jax.schedule import Action, Op
      >>> from seq1f1b_jax.schedule.dependencies import message_source
      >>> message_source(Action(Op.B, 0, 2, 1), num_stages=4).stage
      1
    """
    if action.op is Op.W:
        return None
    stage = action.stage - 1 if action.op is Op.F else action.stage + 1
    if not 0 <= stage < num_stages:
        return None
    return Action(action.event.op, stage, action.microbatch, action.chunk)


def dependencies(action: Action, plan: Plan) -> tuple[Action, ...]:
    """List every event that must be over before this action starts."""
    source = message_source(action, num_stages=plan.num_stages)
    local = local_dependencies(action, num_chunks=plan.num_chunks)
    return (*local, source) if source is not None else tuple(local)


def execution_order(plan: Plan) -> Iterator[Action]:
    """Yield the actions as ranks that wait for their dependencies would run them.

    Each rank keeps its own order. The iterator ends when no rank can go on: after the last action
    of a valid plan, earlier where the plan deadlocks.
    """
    done: set[Action] = set()
    position = [0] * plan.num_ranks
    progress = True
    while progress:
        progress = False
        for rank, row in enumerate(plan.ranks):
            while position[rank] < len(row):
                action = row[position[rank]]
                if not done.issuperset(dependencies(action, plan)):
                    break
                yield action
                done.add(action.event)
                position[rank] += 1
                progress = True
