"""The parts of `python -m seq1f1b_jax.explore`.

    options     of the command line
    subjects    the plans to report on, generated or read, with their costs
    searching   or found by a search
    report      all about one plan; comparison: several side by side; listing: the schedules
    outputs     the picture
    text        numbers and tables

Every part returns text; `__main__` prints it.
"""
