"""The simulated world: nodes, network, disks and time under one seed, in one process."""
