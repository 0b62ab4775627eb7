"""The siege: real nodes that are killed, stopped, cut off and cheated under load, and what their clients saw."""
