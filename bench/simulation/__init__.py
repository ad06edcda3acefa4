"""The judge on simulated releases, beside other rules: ``python -m bench.simulation``."""
