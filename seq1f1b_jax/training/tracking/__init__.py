"""Services that a run reports to beside its own files: TensorBoard, Weights & Biases, MLflow.

A service is a `Sink` (numbers and files); `Behind` runs it in a thread, so that one that is slow or
fails neither delays nor ends the run; `opened.py` opens those that the settings ask for.
"""
