"""The simulation: a cluster in one process under one seed, with clients, in virtual time."""
