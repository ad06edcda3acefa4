"""The processes of the proxy: workers, which carry requests, and the control plane.

They share a block of memory and nothing else. With one worker both run in one process and one event loop.
"""
