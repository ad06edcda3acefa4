"""``canaryproxy demo``: two small services, the proxy and some users, and releases that go wrong.

``run.demo`` is the entry: ``story`` says what happens, ``run`` makes it happen, ``processes`` starts and
ends what it needs, ``users`` are the load, ``measured`` reads the proxy, ``screen`` and ``summary`` show.
"""
