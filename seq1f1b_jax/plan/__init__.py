"""Plan a run before paying for it: memory and time of a configuration, and better ones."""
