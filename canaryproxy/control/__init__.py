"""The control plane: counters in, route tables out."""
