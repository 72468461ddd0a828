"""The seconds of a stage's actions, measured on the device at hand."""
