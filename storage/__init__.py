"""What is remembered: the ledger, its backends, snapshot files and the state machines."""
