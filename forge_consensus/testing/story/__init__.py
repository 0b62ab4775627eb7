"""The last messages of a simulation as a table for people: sender, receiver and content."""
