"""The last messages of a simulation, as people read them: who said what to whom."""
