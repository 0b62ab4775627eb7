"""The service: a node inside a program, on a thread of it or as its child process."""
