"""Input files of several formats: found, opened, uncompressed, split into records."""
