"""The simulation: a cluster in one process from one random seed, its clients, checks, and stories of failures."""
