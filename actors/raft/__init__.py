"""The parts that the actors are made of: leadership, progress, handshake, transfers, waiting requests."""
