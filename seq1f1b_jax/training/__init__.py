"""Training around the pipeline: data, optimizer, step, checkpoints, metrics, the run itself."""
