"""The state of a node on disk: the ledger, its backends, snapshot files and the state machines."""
