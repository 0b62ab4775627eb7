"""The simulation: a cluster in one process under one seed, its clients, who judges them, and the story of a failure."""
