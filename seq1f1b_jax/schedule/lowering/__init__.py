"""From a plan to the table that the executor runs: ticks, slots, arena, table, and its replay."""
