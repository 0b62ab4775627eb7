"""Checks of a host, a disk and a cluster: what they find, how bad it is, and what to do about it."""
