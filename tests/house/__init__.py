"""Rules of the repository and of its test suite."""
