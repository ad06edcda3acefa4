"""One release over many replicas: a document in Redis that all of them follow.

``protocol`` says what holds and why; ``member`` and ``link`` do it.
"""
