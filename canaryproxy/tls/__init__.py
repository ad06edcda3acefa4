"""TLS for asyncio transports: contexts, certificate files and the record layer."""
