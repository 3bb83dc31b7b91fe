"""Which addresses of the network must not be reached for somebody else: those that a tenant or a text named."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

# IPv4 addresses in disguise: where they lead cannot be told from here, and nobody writes a URL so.
_DISGUISES = tuple(
    IPv6Network(text)
    for text in (
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64, local use (RFC 8215)
        "::/96",  # IPv4-compatible, deprecated (RFC 4291); loopback is let through before
        "::ffff:0:0/96",  # IPv4-mapped (RFC 4291)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "2001::/32",  # Teredo (RFC 4380)
        "2002::/16",  # 6to4 (RFC 3056)
    )
)

# Not public, though the standard library of some Python versions takes them for it.
_NOT_PUBLIC = (
    IPv4Network("192.88.99.0/24"),  # 6to4 relays (RFC 7526)
    IPv6Network("fec0::/10"),  # site-local, deprecated (RFC 3879)
    IPv6Network("5f00::/16"),  # segment routing (RFC 9602)
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
    IPv6Network("100:0:0:1::/64"),  # dummy prefix (RFC 9780)
)

# Where clouds hand out credentials: closed even when private addresses are open.
_CREDENTIALS = (
    IPv4Network("169.254.0.0/16"),
    IPv6Network("fe80::/10"),
    IPv4Network("168.63.129.16/32"),
    IPv4Network("100.100.100.200/32"),  # Alibaba Cloud
    IPv4Network("192.0.0.192/32"),  # Oracle Cloud
    IPv6Network("fd00:ec2::/32"),  # Amazon
    IPv6Network("fd20:ce::/32"),  # Google
    IPv6Network("fd00:42::/32"),  # Scaleway
)

_BROADCAST = IPv4Address("255.255.255.255")


def address_refusal(address: Address, *, allow_private: bool = False) -> str | None:
    """Say why an address must not be reached; None when it may be.

    Args:
        allow_private: let private and loopback addresses pass. Metadata services of clouds stay closed.
    """
    if isinstance(address, IPv6Address):
        address = IPv6Address(address.packed)  # without its zone, which is part of no network
    if _within(address, _CREDENTIALS):
        return "it is an address of a metadata service or of this link"
    if address.is_multicast or address == _BROADCAST:
        return "it is an address of many machines"
    if allow_private and (address.is_loopback or address.is_unspecified):
        return None
    if _within(address, _DISGUISES):
        return "it is an IPv4 address in another form"
    if not allow_private and (not address.is_global or _within(address, _NOT_PUBLIC)):
        return "it is not a public address"
    return None


def _within(address: Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
