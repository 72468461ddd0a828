"""`plan sweep`: a few configurations compiled and timed on the device at hand."""
