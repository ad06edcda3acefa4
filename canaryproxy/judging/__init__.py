"""Whether the canary is worse than stable: evidence and verdicts. Pure."""
