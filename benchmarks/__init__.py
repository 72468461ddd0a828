"""Measurements, each a program: `python -m benchmarks.memory`, `.step`, `.gpu`.

Every one prints its tables, the machine, and one last line of JSON with the keys it is known by.
"""
