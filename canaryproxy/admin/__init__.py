"""The control side seen from outside: metrics and probes over HTTP."""
