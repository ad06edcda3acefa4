"""The data path on uvloop: one ``asyncio.Protocol`` per side, no task per request."""
