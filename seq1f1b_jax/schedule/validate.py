"""Whether a plan can run: every action once, in its place, and no rank waiting for ever."""

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import (
    dependencies,
    execution_order,
    local_dependencies,
)
from seq1f1b_jax.schedule.grid import draw_marked
from seq1f1b_jax.schedule.plan import Plan, PlanError


def validate(plan: Plan) -> None:
    """Check that a plan computes every unit on every stage and respects all dependencies.

    A plan without any backward is an evaluation plan and valid without them.

    Args:
      plan: of any origin.

    Raises:
      PlanError: an action is missing, repeated, on the wrong rank or outside the sizes, or stands
        where it could never run. The message draws the grid with that cell marked.
    """
    for rank in range(plan.num_stages):
        _check_cells(plan, rank)
        _check_complete(plan, rank)
    _check_progress(plan)


def plan_error(
    plan: Plan, reason: str, *, rank: int, index: int, text: str | None = None
) -> PlanError:
    """Build the error for one cell of a plan.

    Args:
      plan: the plan at fault.
      reason: the rule and what breaks it.
      rank: row of the cell.
      index: column of the cell, in actions.
      text: letters of an action that is missing there.
    """
    grid = draw_marked(plan, rank=rank, index=index, text=text)
    return PlanError(f"plan {plan.name}, rank {rank}, action {index}: {reason}\n{grid}")


def _check_cells(plan: Plan, rank: int) -> None:
    seen: dict[Action, int] = {}
    for index, action in enumerate(plan.ranks[rank]):
        text = action.text(rank)
        if action.stage != rank:
            reason = f"{text} is of stage {action.stage}; rank {rank} runs stage {rank} only"
        elif not (0 <= action.microbatch < plan.num_microbatches):
            reason = f"{text} is outside num_microbatches={plan.num_microbatches}"
        elif not (0 <= action.chunk < plan.num_chunks):
            reason = f"{text} is outside num_chunks={plan.num_chunks}"
        elif action in seen:
            reason = f"{text} has run already, as action {seen[action]}; a unit runs once"
        else:
            seen[action] = index
            continue
        raise plan_error(plan, reason, rank=rank, index=index)


def _check_complete(plan: Plan, rank: int) -> None:
    present = set(plan.ranks[rank])
    for op in (Op.F,) if plan.forward_only else (Op.F, Op.B):
        for microbatch in range(plan.num_microbatches):
            for chunk in range(plan.num_chunks):
                action = Action(op, rank, microbatch, chunk)
                if action not in present:
                    text = action.text(rank)
                    reason = f"{text} is missing; every rank runs every unit once"
                    end = len(plan.ranks[rank])
                    raise plan_error(plan, reason, rank=rank, index=end, text=text)


def _check_progress(plan: Plan) -> None:
    done = set(execution_order(plan))
    heads = {}  # rank -> the position at which it is stuck
    for rank, row in enumerate(plan.ranks):
        ran = sum(action in done for action in row)
        if ran < len(row):
            heads[rank] = ran
    for rank, index in heads.items():  # a rank in its own way is the better explanation
        action = plan.ranks[rank][index]
        for needed, why in local_dependencies(action, num_chunks=plan.num_chunks).items():
            if needed not in done:
                reason = f"{action.text(rank)} stands before {needed.text(rank)}; {why}"
                raise plan_error(plan, reason, rank=rank, index=index)
    if heads:
        rank, index = next(iter(heads.items()))
        waits = "; ".join(_wait(plan, plan.ranks[r][i], done) for r, i in heads.items())
        raise plan_error(plan, f"no rank can go on: {waits}", rank=rank, index=index)


def _wait(plan: Plan, action: Action, done: set[Action]) -> str:
    needed = next(a for a in dependencies(action, plan) if a not in done)
    return (
        f"rank {action.stage} waits with {action.text(action.stage)}"
        f" for {needed.text(needed.stage)} of rank {needed.stage}"
    )
