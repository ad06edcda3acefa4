"""``canaryproxy demo``: two small services, the proxy, simulated users, and releases that go wrong."""
