"""Which addresses a delivery may reach."""

from __future__ import annotations

import pytest

from taskq.http.guard import Guard


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.0.1",
        "168.63.129.16",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2002:c0a8:101::1",
        "not an address",
        "",
    ],
)
def test_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, multicast, reserved: refused in every spelling, and what is no address."""
    assert not Guard().permits(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.215.14",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "169.253.0.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_public(address: str) -> None:
    """The public internet is open, the neighbours of private networks too."""
    assert Guard().permits(address)


def test_allowed_networks_are_open_and_no_others() -> None:
    """What the operator opens is reached, blanks in the list or not, also when it is spelled as an IPv6 address."""
    guard = Guard("127.0.0.0/8, ::1,10.1.2.3")
    for address in ("127.0.0.1", "127.9.9.9", "::1", "10.1.2.3", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "8.8.8.8"):
        assert guard.permits(address), address
    for address in ("10.1.2.4", "192.168.0.1", "169.254.169.254", "::2", "::ffff:10.0.0.1", "fd00:ec2::254"):
        assert not guard.permits(address), address


def test_allowed_ipv6_networks() -> None:
    """A private IPv6 network is opened by its own prefix."""
    guard = Guard("fd12::/16")
    assert guard.permits("fd12::5") and not guard.permits("fd13::5")


@pytest.mark.parametrize("allow", ["localhost", "127.0.0.0/33", "127.0.0.1/8"])
def test_what_is_no_network_is_refused(allow: str) -> None:
    """A setting that is not understood opens nothing in silence."""
    with pytest.raises(ValueError):
        Guard(allow)
