"""A run before its first step: its header with predictions, and one step measured against them."""
