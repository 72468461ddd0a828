"""A search for the fastest order of work under a cap on memory.

It answers two questions that formulas cannot. How far is a named schedule from the best possible
one? At equal costs a lower bound proves them optimal. And where chunks differ in cost and cannot be
balanced, which order is faster? There it takes up to 11 % off the step (docs/design/schedules.md,
*Searching for an order*). The result is a plan like any other, to be saved and trained with.

    find_plan(sizes, costs, cap) -> SearchResult -> compare_named -> how far each schedule is off

    problem      sizes, costs, cap, machine
    bound        time that no order can beat
    seeds        named schedules and their variants
    order_timer  the simulator for many orders at once
    layers       branch and bound, by `ticks` or by `events`, over the orders of `streams`
    polish       local search
    find         all of these in turn; compare: the result beside the named schedules
"""

from seq1f1b_jax.explore.search.compare import Comparison, compare_named, draw_comparison
from seq1f1b_jax.explore.search.find import SearchResult, find_plan

__all__ = ["Comparison", "SearchResult", "compare_named", "draw_comparison", "find_plan"]
