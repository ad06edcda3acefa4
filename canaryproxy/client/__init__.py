"""The command line's side of the admin API: ask and steer a running proxy, and show what it says."""
