"""The metrics of a node for Prometheus, made from its events, its turns and its status."""
