"""What must always hold of the nodes, looked at after every step."""
