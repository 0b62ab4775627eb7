"""The metrics of a node, from its events, its turns and its status."""
