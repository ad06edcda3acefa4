"""Names and the endpoints that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import Endpoint
from canaryproxy.config.addresses import endpoint
from canaryproxy.measure.resolved import expand, names
from canaryproxy.measure.shared_memory import AddressCell

ADDRESSES = st.lists(
    st.tuples(st.ip_addresses(v=4).map(str), st.integers(1, 65535)), min_size=1, unique=True
)


def test_a_name_is_an_endpoint_for_each_address() -> None:
    name, literal = endpoint("https://cart.shop"), endpoint("http://10.0.0.1:80")
    found = {"https://cart.shop:443": (("10.0.0.7", 443), ("fd00::7", 443))}
    one, other, last = expand([name, literal], found)
    assert [str(one), str(other)] == [
        "https://cart.shop:443 (10.0.0.7)",
        "https://cart.shop:443 (fd00::7)",
    ]
    assert (one.host, one.authority, other.authority) == (
        "cart.shop",
        "10.0.0.7:443",
        "[fd00::7]:443",
    )
    assert last is literal


def test_a_name_without_an_address_stays() -> None:
    name = endpoint("http://cart.shop")
    assert expand([name], {}) == expand([name], {"http://cart.shop:80": ()}) == (name,)


def test_rank_and_weight_are_no_part_of_what_an_endpoint_is() -> None:
    name = endpoint("dns+srv://_http._tcp.cart.shop")
    (plain,) = expand([name], {str(name): (("10.0.0.7", 80),)})
    (other,) = expand([name], {str(name): (("10.0.0.7", 80, 1, 0.5),)})
    assert (plain.rank, plain.weight, other.rank, other.weight) == (0, 1.0, 1, 0.5)
    assert plain == other, "its connections and its state stay"


@pytest.mark.parametrize("scheme", ["http+srv", "dns+srv", "https+srv"])
def test_srv_records_give_the_port(scheme: str) -> None:
    name = endpoint(f"{scheme}://_HTTP._tcp.cart.shop")
    secure = scheme == "https+srv"
    assert str(name) == f"http{'s' * secure}+srv://_http._tcp.cart.shop"
    (one,) = expand([name], {str(name): (("10.0.0.7", 8080),)})
    assert str(one) == f"http{'s' * secure}://cart.shop:8080 (10.0.0.7)"
    assert names([name, name]) == (name,)


@pytest.mark.parametrize(
    "url",
    [
        "dns+srv://cart.shop",
        "dns+srv://_http.cart.shop",
        "dns+srv://_http._tcp.cart.shop:80",
        "dns+srv://_http._tcp.[::1]",
        "srv://_http._tcp.cart.shop",
    ],
)
def test_srv_needs_service_protocol_and_name(url: str) -> None:
    with pytest.raises(ValueError, match="dns\\+srv"):
        endpoint(url)


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1:80", "http://[::1]:80", "unix:/a", "http://localhost", "http://a.localhost."],
)
def test_literals_sockets_and_localhost_are_not_looked_up(url: str) -> None:
    assert names([endpoint(url)]) == ()


@given(ADDRESSES, st.randoms())
def test_the_order_of_addresses_changes_no_endpoint(
    addresses: list[tuple[str, int]], random: object
) -> None:
    name = Endpoint("http", "cart.shop", 0, service="_http._tcp.")
    shuffled = list(addresses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = expand([name], {str(name): tuple(addresses)})
    other = expand([name], {str(name): tuple(shuffled)})
    assert {(each, each.authority) for each in one} == {(each, each.authority) for each in other}
    assert len({each.authority for each in one}) == len(addresses)


@given(st.dictionaries(st.text(), ADDRESSES.map(tuple)))
def test_addresses_go_through_shared_memory(found: dict[str, tuple[tuple[str, int], ...]]) -> None:
    cell = AddressCell()
    cell.publish(found)
    read = cell.read()
    assert read is not None
    assert read[1] == found
    assert read[0] == cell.sequence[0] > 0


def test_too_many_addresses_are_refused_and_the_last_ones_stay() -> None:
    cell = AddressCell()
    assert cell.read() is None
    cell.publish({"a": (("10.0.0.7", 80),)})
    with pytest.raises(ValueError, match="at most"):
        cell.publish({"a" * 2_000_000: ()})
    read = cell.read()
    assert read is not None
    assert read[1] == {"a": (("10.0.0.7", 80),)}
