"""The simulated world: nodes, network, disks and time in one process, all drawn from one random seed."""
