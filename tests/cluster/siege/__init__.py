"""The siege: real nodes under load with faults of processes, network, disks and clocks, and checks of all calls."""
