"""Text, JSONL and parquet to a token folder; what `python -m seq1f1b_jax.data prepare` does.

The parts, in the order in which they work:

    options     what the command can be told
    sources     the files that were asked for, and what they hold
    portions    files cut into parts that one process can hold
    documents   the documents of a portion, or what is wrong with them; parquet
    encode      a portion to tokens, in a process of its own
    partial     what is finished so far, so that a killed run continues
    run         all of it in order
    bar         how far it is
"""
