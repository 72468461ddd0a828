"""From a configuration to a job, for `train.py` and for `Trainer`; here our models are known."""
