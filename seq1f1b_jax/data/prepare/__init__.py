"""Text, JSON, CSV and parquet to a token folder; what `python -m seq1f1b_jax.data prepare` does.

The parts, in the order in which they work:

    options     what the command can be told
    job         what to prepare, and how
    sources     the files that were asked for, and what they hold by their names
    checks      settings that say nothing about them
    streams     files as bytes, unpacked; arrays, tables: JSON arrays and CSV among these
    portions    files cut into parts that one process can hold
    documents   the documents of a portion, or what is wrong with them; parquet; fields of records
    trained     a tokenizer trained on the sources
    encode      a portion to tokens, in a process of its own; pieces: a long document; specials
    partial     what is finished so far, so that a killed run continues
    run         all of it in order
    bar         how far it is
"""
