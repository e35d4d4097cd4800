"""Which addresses a delivery may reach: those of the public internet, and the networks that the operator opens.

What is judged is the address that is connected to, not the name in the URL: a name may resolve to anything, and to
something else the next time.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Tables of our own, not `ipaddress`'s `is_private` and `is_global`: those differ from one Python to the next.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared between a carrier and its customers
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata
        "169.254.0.0/16",  # link-local: 169.254.169.254 gives away a cloud machine's credentials
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; the broadcast address
    )
)
_GLOBAL_V6 = IPv6Network(
    "2000::/3"
)  # all else is loopback, link-local, private (fd00:ec2::254 too), multicast, reserved
_NOT_PUBLIC_V6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20"))
# An IPv4 address within an IPv6 one: the network, and how many bits follow the IPv4 address.
_EMBEDDING = (
    (IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 0),  # translated
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
)


class Guard:
    """Says of an address whether a delivery may reach it.

    Args:
        allow: networks that are open though they are not public, with commas: `127.0.0.0/8,::1`; None: none.

    Raises:
        ValueError: one is no network.
    """

    def __init__(self, allow: str | None = None) -> None:
        self._allow: tuple[Network, ...] = tuple(
            ip_network(network.strip()) for network in (allow or "").split(",") if network.strip()
        )

    def permits(self, address: str) -> bool:
        """Whether it may be reached: an IP address, as the resolver gives it."""
        try:
            return self._permitted(ip_address(address))
        except ValueError:
            return False

    def _permitted(self, address: Address) -> bool:
        if any(address in network for network in self._allow):
            return True
        if isinstance(address, IPv4Address):
            return not any(address in network for network in _NOT_PUBLIC_V4)
        embedded = _embedded(address)
        if embedded is not None:
            return self._permitted(embedded)
        return address in _GLOBAL_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end up at, if it is made of one."""
    for network, bits in _EMBEDDING:
        if address in network:
            return IPv4Address(int(address) >> bits & 0xFFFFFFFF)
    return None
