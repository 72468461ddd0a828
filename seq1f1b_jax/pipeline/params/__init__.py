"""Parameters in memory: how they are laid out, sharded, initialised, read and written."""
