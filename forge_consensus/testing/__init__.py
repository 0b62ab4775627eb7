"""The test kit: clusters in one process under one seed, real clusters with faults, and judges of what clients saw."""
