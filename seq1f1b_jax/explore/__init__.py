"""Look at schedules: the command that lists, draws and compares them, and the search for new ones."""
