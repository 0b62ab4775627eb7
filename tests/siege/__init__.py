"""The siege: real node processes that are killed, stopped, cut off and cheated under load, and what clients then saw."""
