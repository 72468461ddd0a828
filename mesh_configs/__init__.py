"""Recipes: YAML files that `--config NAME` finds by name. Data only."""
