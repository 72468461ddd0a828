"""What the operating system gives a process: files, a lock, standard output, signals."""
