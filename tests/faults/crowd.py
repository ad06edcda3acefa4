"""Connections that stay: ``python crowd.py PORT COUNT NUMBER`` (its NUMBER gives it a source address).

Asks once on each and says so; asks again for each line that comes in; ends with its input.
"""

from __future__ import annotations

import socket
import sys


def main(port: int, count: int, number: int) -> None:
    source = (f"127.0.1.{number + 1}", 0)  # there are only so many ports for an address
    clients = [socket.create_connection(("127.0.0.1", port), 60, source) for _ in range(count)]
    while True:
        for at, sock in enumerate(clients):
            user = f"{number}-{at}"
            sock.sendall(f"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id={user}\r\n\r\n".encode())
        well = sum(sock.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n") for sock in clients)
        print(well, flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
