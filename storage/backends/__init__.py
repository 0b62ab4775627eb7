"""The tables that a ledger stands on: LMDB, its twin in memory, and the node's folder."""
