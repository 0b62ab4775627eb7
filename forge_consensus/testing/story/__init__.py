"""The last messages of a simulation as a table for people: who sent what to whom."""
