"""Arithmetic with hand-written gradients: attention over a key/value prefix, and the fused loss."""
