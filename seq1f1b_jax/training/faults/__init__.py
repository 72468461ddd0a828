"""What may go wrong outside the steps, and what the run does then."""
