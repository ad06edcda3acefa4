"""One release over many replicas: a document in Redis that all of them follow.

``protocol`` says which document holds and why, ``authority`` acts on it, ``redis_store`` keeps it.
"""
