"""``canaryproxy demo``: two small services, the proxy and some users, and a release that goes wrong."""
