"""Bytes of a step, before anything is traced."""
