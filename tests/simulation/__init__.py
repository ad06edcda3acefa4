"""Simulated releases, and the rules that are tried on them. Imported by tests and by ``bench.judge``."""
