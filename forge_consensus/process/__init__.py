"""What the process around the package demands: signal handlers, forks, few descriptors, and a log that stands still."""
