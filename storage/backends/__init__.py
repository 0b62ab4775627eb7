"""The tables that a ledger is stored in: LMDB, an equivalent in memory for tests, and the node's folder."""
