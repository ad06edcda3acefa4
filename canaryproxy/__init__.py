"""canaryproxy: a reverse proxy in front of two versions of a service that releases the new one safely."""

__version__ = "0.1.0"

DEFAULT_SOCKET = "./run/admin.sock"
"""Path of the admin socket, unless the configuration or ``--admin`` names another address."""

API_HEADER = "Canaryproxy-Api-Version"
"""Header of every response of the admin API, by which clients know it before they send anything else."""
API_VERSION = "1"
"""Its value; another version is not compatible."""
