"""The model forward: as a reference for the pipeline, with a cache, and sampling from it."""
