"""What is told of a failure: where it began, what led there, and who said what."""
