"""What a compiled H100 program does, read from its text: see `benchmarks.h100_program`."""
