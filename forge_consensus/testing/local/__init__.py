"""Real nodes on this machine, a proxy between them, and what is done to both."""
