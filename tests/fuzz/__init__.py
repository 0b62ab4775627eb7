"""Fuzzing with coverage as the guide, by atheris: for hours, where hypothesis looks for seconds."""
