"""This system beside others on the same work and machine: ``python -m tests.benchmarks.peers``."""
