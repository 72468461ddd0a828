"""The best configuration for given devices."""
