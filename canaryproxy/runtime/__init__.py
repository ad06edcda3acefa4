"""What runs in the proxy's processes: workers that carry requests, and the one that steers them.

They share a ``shared.Block`` and nothing else. With one worker both run in one process and one event loop.
"""
