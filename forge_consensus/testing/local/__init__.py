"""Clusters of real nodes on this machine, with faults of processes and of the network between them."""
