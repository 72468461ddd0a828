"""A search for the fastest order of work under a cap on memory.

    find_plan(sizes, costs, cap) -> SearchResult -> compare_named -> how far each schedule is off

The result is a plan like any other: validated, lowered and run by the same executor.
"""

from seq1f1b_jax.explore.search.compare import Comparison, compare_named, draw_comparison
from seq1f1b_jax.explore.search.find import SearchResult, find_plan

__all__ = ["Comparison", "SearchResult", "compare_named", "draw_comparison", "find_plan"]
