"""What the data path counts and the control plane reads. Pure."""
