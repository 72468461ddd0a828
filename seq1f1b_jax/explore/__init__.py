"""Schedules to look at: a command lists, draws and compares them; a search finds new ones."""
