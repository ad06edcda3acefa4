"""An upstream that does one thing wrong: ``python faulty.py KIND PORT``."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def request(sock: socket.socket) -> bytes:
    """Read one head; empty at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return b""
        data += piece
    return data


def resets_at_once(sock: socket.socket) -> None:
    reset(sock)


def resets_after_request(sock: socket.socket) -> None:
    request(sock)
    reset(sock)


def closes_after_request(sock: socket.socket) -> None:
    request(sock)
    sock.close()


def resets_after_head(sock: socket.socket) -> None:
    request(sock)
    sock.sendall(HEAD % 10)
    time.sleep(0.05)
    reset(sock)


def half_a_body(sock: socket.socket) -> None:
    request(sock)
    sock.sendall(HEAD % 10 + b"12345")
    sock.close()


def more_than_said(sock: socket.socket) -> None:
    while request(sock):
        sock.sendall(HEAD % 5 + b"12345" + HEAD % 6 + b"POISON")


def less_than_said(sock: socket.socket) -> None:
    while request(sock):
        sock.sendall(HEAD % 5000 + b"12345")


def a_byte_a_second(sock: socket.socket) -> None:
    request(sock)
    for byte in HEAD % 2 + b"ok":
        sock.sendall(bytes((byte,)))
        time.sleep(1)


def half_a_head(sock: socket.socket) -> None:
    request(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-")
    time.sleep(60)


def no_http(sock: socket.socket) -> None:
    request(sock)
    sock.sendall(b"220 mail.example ESMTP\r\n\r\n")


def deaf(sock: socket.socket) -> None:
    time.sleep(60)


def answers_first(sock: socket.socket) -> None:
    """Answer when the head is there, and read none of the body."""
    request(sock)
    sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    time.sleep(0.3)
    reset(sock)


def speaks_out_of_turn(sock: socket.socket) -> None:
    request(sock)
    sock.sendall(HEAD % 2 + b"ok")
    time.sleep(0.02)
    sock.sendall(HEAD % 6 + b"POISON")
    time.sleep(1)


KINDS: dict[str, Callable[[socket.socket], None]] = {
    kind.__name__: kind
    for kind in (
        *(resets_at_once, resets_after_request, closes_after_request, resets_after_head),
        *(half_a_body, more_than_said, less_than_said, a_byte_a_second, half_a_head),
        *(no_http, deaf, answers_first, speaks_out_of_turn),
    )
}


def serve(kind: Callable[[socket.socket], None], sock: socket.socket) -> None:
    try:
        kind(sock)
    except OSError:
        pass  # the proxy went away first
    finally:
        sock.close()


def main(name: str, port: int) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0 if name == "never_accepts" else 1024)
    if name == "never_accepts":
        time.sleep(600)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(KINDS[name], sock), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
