"""Checkpoints: written, recorded, found again, restored."""
