"""What a machine gives a process: files, a lock, a terminal, signals, compiled programs."""
