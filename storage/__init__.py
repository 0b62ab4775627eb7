"""What a node keeps on disk: the ledger, its backends, snapshot files and the state machines."""
