"""Text, JSON, CSV and parquet to a token folder: `python -m seq1f1b_jax.data prepare`.

In the order in which they work:

    options     the command line
    job         what to prepare, and how
    readers     input files: found, opened, uncompressed, split into records
    portions    files cut into parts that one process can hold
    documents   the documents of a portion, or what is wrong with them
    tokenizer   the tokenizer that the job names, or one trained on the sources
    loss_mask   a document to tokens, and which of them count for the loss
    pieces      a long document, encoded piece by piece
    encode      portions to tokens, in several processes
    partial     progress on disk, so that a killed run continues
    run         all of it in order
    bar         the progress bar
"""
