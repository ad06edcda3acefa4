"""Counts that the data path writes and the control plane reads. Pure."""
