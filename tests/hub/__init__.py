"""A stand-in of the Hub for tests: real sockets, the installed client, faults on request."""
