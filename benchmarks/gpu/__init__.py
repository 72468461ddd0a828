"""One GPU, one stage: `python -m benchmarks.gpu`."""
