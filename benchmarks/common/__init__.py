"""What several benchmarks share: programs to compare, processes to run them in, reports."""
