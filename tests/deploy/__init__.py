"""What people deploy with: the image, manifests, packages and guides name nothing that does not exist."""
