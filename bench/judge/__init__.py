"""The judge on simulated releases with users, beside other rules: ``python -m bench.judge``."""
