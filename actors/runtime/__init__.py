"""The turn: frames come in, actors handle them, and frames leave after the commit. It knows no Raft."""
