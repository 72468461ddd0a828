"""Whether a plan can run: every action once, on its rank, and no deadlock."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

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
      PlanError: an action is missing, repeated, on the wrong rank or outside the sizes, or comes
        where it could never run. The message draws the grid with that cell marked.
    """
    for rank in range(plan.num_ranks):
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
    message = f"plan {plan.name}, rank {rank}, action {index}: {reason}\n{grid}"
    return PlanError(message, rank=rank, index=index)


def placement_rule(plan: Plan, rank: int) -> str:
    r"""Write the rule that puts stages on ranks, and how a plan breaks it.

    Args:
      plan: that has a stage on another rank.
      rank: that runs a stage of another one.

    Example:
      >>> from seq1f1b_jax.schedule import parse_grid
      >>> from seq1f1b_jax.schedule.validate import placement_rule
      >>> plan = parse_grid("rank 0  F0.0 F0.0@3\nrank 1  F0.0 F0.0@2", name="v")
      >>> print(placement_rule(plan, 0))
      of 4 in a V, as zb-v and dualpipev; stage s is on rank s mod P, so rank 0 of 2 runs 0 and 2
    """
    P = plan.num_ranks
    total = min(plan.num_stages, 1 + max(_stages(plan)))
    own = [str(stage) for stage in range(rank, total, P)] or [str(rank)]
    listed = " and ".join((", ".join(own[:-1]), own[-1])) if len(own) > 1 else own[0]
    return (
        f"of {total}{_PLACEMENTS[_placement(plan)]}; stage s is on rank"
        f" s mod P, so rank {rank} of {P} runs {listed}"
    )


_PLACEMENTS = {"": "", "v": " in a V, as zb-v and dualpipev", "blocks": " in blocks"}


def _placement(plan: Plan) -> str:
    """How a plan distributes its stages, where that has a name."""
    held = [sorted({action.stage for action in row}) for row in plan.ranks]
    P = plan.num_ranks
    if all(stages == [rank, 2 * P - 1 - rank] for rank, stages in enumerate(held)):
        return "v"
    in_order = [stage for stages in held for stage in stages]
    return "blocks" if in_order == list(range(len(in_order))) else ""


def _stages(plan: Plan) -> set[int]:
    return {action.stage for row in plan.ranks for action in row}


def _check_cells(plan: Plan, rank: int) -> None:
    seen: dict[Action, int] = {}
    for index, action in enumerate(plan.ranks[rank]):
        text = action.text(rank)
        if not 0 <= action.stage < plan.num_stages or plan.rank(action.stage) != rank:
            reason = f"{text} is of stage {action.stage} {placement_rule(plan, rank)}"
        elif not (0 <= action.microbatch < plan.num_microbatches):
            reason = f"{text} is outside num_microbatches={plan.num_microbatches}"
        elif not (0 <= action.chunk < plan.num_chunks):
            reason = f"{text} is outside num_chunks={plan.num_chunks}"
        elif action.event in seen:
            reason = f"{text} has run already, as action {seen[action.event]}; a unit runs once"
        else:
            seen[action.event] = index
            continue
        raise plan_error(plan, reason, rank=rank, index=index)


def _check_complete(plan: Plan, rank: int) -> None:
    present = set(plan.ranks[rank])
    end = len(plan.ranks[rank])
    shown = _stages(plan)
    for stage in range(rank, plan.num_stages, plan.num_ranks):
        if stage not in shown:
            first = Action(Op.F, stage, 0, 0).text(rank)
            reason = (
                f"no rank runs stage {stage}; {plan.num_ranks} ranks with equally many stages each"
                f" have {plan.num_stages}, and this plan shows {len(shown)}"
            )
            raise plan_error(plan, reason, rank=rank, index=end, text=first)
    for action in _expected(plan, rank, present):
        if action not in present:
            text = action.text(rank)
            reason = f"{text} is missing; every rank runs every unit once"
            raise plan_error(plan, reason, rank=rank, index=end, text=text)
    for index, action in enumerate(plan.ranks[rank]):
        if action.op is Op.W and replace(action, op=Op.I) not in present:
            text, whole = action.text(rank), replace(action, op=Op.B).text(rank)
            reason = f"{text} is beside {whole}; a backward is one B, or an I and later a W"
            raise plan_error(plan, reason, rank=rank, index=index)


def _expected(plan: Plan, rank: int, present: set[Action]) -> Iterator[Action]:
    """What the row of a rank must hold; its own `I`s say which backwards are split."""
    for op in (Op.F,) if plan.forward_only else (Op.F, Op.B):
        for stage in range(rank, plan.num_stages, plan.num_ranks):
            for microbatch in range(plan.num_microbatches):
                for chunk in range(plan.num_chunks):
                    action = Action(op, stage, microbatch, chunk)
                    half = replace(action, op=Op.I)
                    split = op is Op.B and half in present
                    yield replace(action, op=Op.W) if split else action


def _check_progress(plan: Plan) -> None:
    order = list(execution_order(plan))
    done = {action.event for action in order}
    ran_by_rank = Counter(plan.rank(action.stage) for action in order)
    heads = {  # rank -> the position at which it is stuck
        rank: ran_by_rank[rank]
        for rank, row in enumerate(plan.ranks)
        if ran_by_rank[rank] < len(row)
    }
    for rank, index in heads.items():  # a rank in its own way is the better explanation
        action = plan.ranks[rank][index]
        for needed, why in local_dependencies(action, num_chunks=plan.num_chunks).items():
            if needed not in done:
                reason = f"{action.text(rank)} comes before {_name(plan, needed)}; {why}"
                raise plan_error(plan, reason, rank=rank, index=index)
    if heads:
        rank, index = next(iter(heads.items()))
        waits = "; ".join(_wait(plan, plan.ranks[r][i], done) for r, i in heads.items())
        raise plan_error(plan, f"no rank can go on: {waits}", rank=rank, index=index)


def _wait(plan: Plan, action: Action, done: set[Action]) -> str:
    needed = next(a for a in dependencies(action, plan) if a not in done)
    rank, other = plan.rank(action.stage), plan.rank(needed.stage)
    return f"rank {rank} waits with {action.text(rank)} for {_name(plan, needed)} of rank {other}"


def _name(plan: Plan, event: Action) -> str:
    """The letters of an event in its row."""
    rank = plan.rank(event.stage)
    half = replace(event, op=Op.I)
    return (half if half in plan.ranks[rank] and event.op is Op.B else event).text(rank)
