"""The simulation: a cluster in one process under one seed, its clients, its checks, and the story of a failure."""
