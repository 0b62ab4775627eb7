"""The demo: a cluster of real processes under load that loses its leader and nothing else."""
