from __future__ import annotations

from kshot.gateway.host_shares import HostShares


def take_all(shares: HostShares, host: str) -> int:
    """Take single units until there is none; return how many."""
    count = 0
    while shares.try_take(host):
        count += 1
    return count


def test_a_greedy_host_leaves_room() -> None:
    shares = HostShares(8)

    taken = {host: take_all(shares, host) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3")}

    assert taken == {"192.0.2.1": 5, "192.0.2.2": 2, "192.0.2.3": 1}
    shares.give("192.0.2.1", 5)
    assert take_all(shares, "192.0.2.4") == 3


def test_no_more_is_given_than_is_free() -> None:
    shares = HostShares(8)

    assert not shares.try_take("192.0.2.1", 9)
    assert shares.try_take("192.0.2.1", 8)


def test_a_network_of_ipv6_is_one_host() -> None:
    """Who has one has all of its addresses."""
    shares = HostShares(8)

    assert take_all(shares, "2001:db8::1") == 5
    assert take_all(shares, "2001:db8::ffff%eth0") == 0
    assert take_all(shares, "2001:db8:0:1::1") == 2
    shares.give("2001:db8::2", 5)
    assert take_all(shares, "::1") == 4
