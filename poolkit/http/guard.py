"""Which hosts and addresses may be called, for URLs that strangers choose.

A host is looked at by name before anything else. An address is looked at where the connection is made, and it
is the one that is then used: whatever a name server says the next time does not matter, nor how the address
was spelt in the URL.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from ..core.errors import AddressBlocked
from ..core.resolving import Found
from .target import UNIX, Origin

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
"""Addresses that carry one of IPv4 in their last 32 bits (RFC 6052, RFC 8215)."""

_OTHERS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's services for its machines, at a public address
        "192.0.0.0/24",  # among them Oracle's metadata; from here on what older Pythons take for public
        "64:ff9b:1::/48",
        "100:0:0:1::/64",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
"""More addresses that are not on the public internet (IANA's special-purpose registries)."""


class Guard:
    """Lets hosts through that are allowed, and addresses that are public unless private ones may be called.

    An item of *allowed_hosts* is a host's name or address, or ``*.example.com`` for all below that.
    """

    def __init__(self, *, allowed_hosts: Sequence[str] | None, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._any_host = allowed_hosts is None
        hosts = [_as_in_urls(host) for host in allowed_hosts or ()]
        self._hosts = {host for host in hosts if not host.startswith("*.")}
        self._domains = tuple(host[1:] for host in hosts if host.startswith("*."))

    def check_host(self, origin: Origin) -> None:
        """Raise :class:`~poolkit.AddressBlocked` unless the host of *origin* may be called."""
        if self._any_host:
            return
        if origin.scheme == UNIX:
            allowed = origin.host in self._hosts
        else:
            name = origin.host.lower().rstrip(".")
            allowed = name in self._hosts or name.endswith(self._domains)
        if not allowed:
            raise AddressBlocked(f"the host {origin.host!r} is not one of allowed_hosts")

    def check_path(self) -> None:
        """Raise :class:`~poolkit.AddressBlocked` unless sockets of this machine may be called."""
        if not self._allow_private:
            raise AddressBlocked("Unix-domain sockets are private, and allow_private is False")

    def permit(self, host: str, found: Iterable[Found]) -> Sequence[Found]:
        """Return those of the addresses *found* for *host* that may be called.

        Raises :class:`~poolkit.AddressBlocked` if there are some, but none of them may.
        """
        listed = list(found)
        if self._allow_private:
            return listed
        allowed = [each for each in listed if is_public(each[4][0])]
        if listed and not allowed:
            raise AddressBlocked(
                f"{host!r} has the address {listed[0][4][0]}, which is not a public one, "
                "and allow_private is False"
            )
        return allowed


def is_host(text: str) -> bool:
    """Whether *text* can be an item of the allowed hosts."""
    try:
        _as_in_urls(text)
    except LocationParseError:
        return False
    return True


def _as_in_urls(host: str) -> str:
    """Return *host* as a URL has it when it was taken apart; the path of a socket as it is."""
    if host.startswith("/"):
        return host
    wildcard = "*." if host.startswith("*.") else ""
    name = host[len(wildcard) :]
    parts = parse_url(
        f"http://[{name}]/" if name.count(":") > 1 and name[0] != "[" else f"http://{name}/"
    )
    return wildcard + (parts.host or name).strip("[]").lower().rstrip(".")


def is_public(text: str) -> bool:
    """Whether *text* is an address on the public internet; so is each address that it carries within."""
    address: _Address = ipaddress.ip_address(text.partition("%")[0])
    return all(map(_is_public, (address, *_carried(address))))


def _is_public(address: _Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _OTHERS)


def _carried(address: _Address) -> list[_Address]:
    """Return the addresses of IPv4 that one of IPv6 stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    number = int(address)
    found: list[_Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _NAT64) or number >> 32 == 0:
        found.append(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    return [each for each in found if each is not None]
