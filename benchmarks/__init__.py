"""Measurements, each a program: `python -m benchmarks.memory`, `.step`, `.gpu`.

Each prints its tables, the machine, and one last line of JSON. `common` holds what they share.
"""
