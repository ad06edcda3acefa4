"""Starts servers on given cores, measures what they cost, and runs the experiments."""
