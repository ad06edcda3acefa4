"""The regression gate: ``python -m bench.gate``."""
