"""Which inherited socket is for which address, decided without opening one."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from canaryproxy.config import TcpAddress, UnixAddress
from canaryproxy.runtime.sockets import Address, ListeningSocket, Wanted, match

WEB, API = TcpAddress("127.0.0.1", 8080), TcpAddress("127.0.0.1", 8081)
ADMIN = UnixAddress("/run/admin.sock")


class World:
    """Sockets that are bound to nothing, and a table of what they would be bound to."""

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []
        self.bound: dict[int, tuple[Address, ...]] = {}

    def listening(self, *addresses: Address, name: str = "", **options: bool) -> ListeningSocket:
        sock = socket.socket()
        self.opened.append(sock)
        self.bound[id(sock)] = addresses
        return ListeningSocket(sock, name, **options)

    def is_bound(self, sock: socket.socket, address: Address) -> bool:
        return address in self.bound[id(sock)]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    for sock in made.opened:
        sock.close()


def test_a_socket_belongs_to_the_address_it_is_bound_to(world: World) -> None:
    web, admin, other = world.listening(WEB), world.listening(ADMIN), world.listening(API)
    wanted = [Wanted("admin.socket", ADMIN), Wanted("listen", WEB)]
    found = match([web, admin, other], wanted, world.is_bound)
    assert found.found == ((admin,), (web,))
    assert found.unclaimed == (other,)


def test_every_worker_may_have_a_socket_of_an_address(world: World) -> None:
    sockets = [world.listening(WEB) for _ in range(3)]
    assert match(sockets, [Wanted("listen", WEB)], world.is_bound).found == (tuple(sockets),)


def test_one_socket_may_serve_two_addresses(world: World) -> None:
    both = world.listening(WEB, API)
    found = match([both], [Wanted("listen", WEB), Wanted("listen", API)], world.is_bound)
    assert found.found == ((both,), (both,))
    assert found.unclaimed == ()


def test_a_name_stands_for_an_admin_field_wherever_the_socket_is_bound(world: World) -> None:
    named, bound = world.listening(API, name="admin.listen"), world.listening(WEB)
    found = match([bound, named], [Wanted("admin.listen", WEB)], world.is_bound)
    assert found.found == ((named,),)
    assert found.unclaimed == (bound,)


def test_a_socket_named_listen_stands_for_the_address_without_one(world: World) -> None:
    elsewhere, web = world.listening(ADMIN, name="listen"), world.listening(WEB)
    found = match([elsewhere, web], [Wanted("listen", WEB), Wanted("listen", API)], world.is_bound)
    assert found.found == ((web,), (elsewhere,))


def test_a_socket_named_for_another_field_is_not_taken_by_its_address(world: World) -> None:
    admin = world.listening(WEB, name="admin.listen")
    found = match([admin], [Wanted("listen", WEB)], world.is_bound)
    assert found.found == ((),)
    assert found.unclaimed == (admin,)


def test_an_address_without_a_socket_is_to_be_opened(world: World) -> None:
    assert match([], [Wanted("listen", WEB)], world.is_bound).found == ((),)
