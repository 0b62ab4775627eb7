"""Who does the work: the consensus actors, the messages between them, and what carries these."""
