"""The processes of the broker: the command line, the supervisor and one module for each role."""
