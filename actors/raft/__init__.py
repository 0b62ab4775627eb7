"""The pure parts of Raft that the actors are made of: progress, quorum, leadership, transfers."""
