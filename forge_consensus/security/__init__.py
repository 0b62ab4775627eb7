"""Security: who is who, and who may do what. Keys, tokens, roles, the list of access, and what is encrypted."""
