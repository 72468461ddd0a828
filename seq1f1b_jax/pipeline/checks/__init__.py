"""The rules of a stage, and how they are checked."""
