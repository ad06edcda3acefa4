"""One attempt to move users from stable to canary: circuit, rollout and their transitions. Pure."""
