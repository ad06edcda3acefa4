"""A client of the admin API, and what the command line shows of its responses."""
