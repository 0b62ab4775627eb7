"""The demo: a cluster of real processes under load that loses its leader, but no acknowledged write."""
