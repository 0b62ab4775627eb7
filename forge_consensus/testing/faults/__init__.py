"""What goes wrong in a simulation: processes, networks and disks, drawn from the seed."""
