"""The parts of `python -m seq1f1b_jax.explore`.

    options     what it can be told
    subjects    the plans it talks about, made or read, with their costs
    searching   or found
    report      all about one plan; comparison: several side by side; listing: the schedules
    outputs     the picture
    text        numbers and tables

Every part returns text; `__main__` prints it.
"""
