"""The settings: each described once, with its default, unit and reason."""
