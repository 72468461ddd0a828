"""What a run reports: its header, progress, metrics, events, goodput, traces."""
