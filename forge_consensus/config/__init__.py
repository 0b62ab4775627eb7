"""The settings: one description of each (name, type, default, unit, meaning, reason), read by all who need it.

`raft`, `storage` and `node` hold the settings of a node, `client` those of a client. `setting` makes and lists them,
`rows` reads and writes them as JSON and as texts of the command line.
"""
