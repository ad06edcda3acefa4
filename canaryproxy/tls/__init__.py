"""TLS for asyncio transports: contexts, files, records."""
