"""The remote feed: the events of a cluster, followed from another process."""
