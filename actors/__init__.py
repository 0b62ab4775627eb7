"""The consensus actors of a node, the messages between them, and the transport of these messages."""
