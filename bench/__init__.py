"""Benchmarks: canaryproxy beside other reverse proxies, on one machine, in one run.

Example: python -m bench.quick --only ours,nginx,plain
"""
