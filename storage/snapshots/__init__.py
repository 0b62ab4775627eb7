"""Snapshots: the state as one file, written, sent, received and installed."""
