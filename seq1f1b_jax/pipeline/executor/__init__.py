"""The scan: its program, its actions, and the buffers that they share."""
