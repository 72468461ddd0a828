"""One file per schedule: pure functions of integers that return a `Plan`."""
