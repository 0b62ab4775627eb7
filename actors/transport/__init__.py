"""How frames travel: the ZeroMQ base, its sockets and endpoints."""
