"""Text and documents from files of several formats."""
