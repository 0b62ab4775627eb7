"""The faults of a simulation: failures of processes, networks and disks, drawn from the random seed."""
