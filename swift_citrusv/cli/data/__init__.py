"""`citrusv data`: a file for each step, and `command`."""
