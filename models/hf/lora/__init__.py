"""Adapters and checkpoints: fresh ones beside loaded weights, merged ones, a folder for PEFT."""
