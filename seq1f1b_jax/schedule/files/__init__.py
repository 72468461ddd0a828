"""Plans as files: grids, CSV, and those that torch writes."""
