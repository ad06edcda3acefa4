"""canaryproxy: a reverse proxy in front of two versions of a service that releases the new one safely."""

__version__ = "0.1.0"
