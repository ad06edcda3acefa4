"""A client of the admin API, and the texts and screens that the command line makes of its responses."""
