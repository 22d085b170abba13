"""Where an errand may connect to: `storage.hosts`, for every library and every redirection.

A URL is a job's choice, and the node stands inside somebody's network. So names are checked where
they are looked up, and addresses where they are connected to, which no library gets past that uses
Python's sockets: a name that leads to a private address, a redirection to one, a second look-up
with another answer all end here. The bare ``*`` stands for public addresses only.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses behind a translator (NAT64)."""


class Guard:
    """What may be connected to."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._public = "*" in patterns
        self._named = [one.lower() for one in patterns if one != "*"]
        self._found: set[str] = set()
        """Addresses that an allowed name has led to."""

    def name(self, host: str) -> None:
        """A name, or an address, that is looked up. Raises PermissionError."""
        if not self._public and not self._is_named(host):
            raise _refusal(host)

    def address(self, text: str, host: str) -> bool:
        """Whether ``host`` may lead to the address ``text``; if so, that may be connected to."""
        if not self._allowed(text) and not self._is_named(host):
            return False
        self._found.add(_plain(text))
        return True

    def connect(self, text: str) -> None:
        """An address that is connected to. Raises PermissionError."""
        if _plain(text) not in self._found and not self._allowed(text):
            raise _refusal(text)

    def _allowed(self, text: str) -> bool:
        """By itself, whatever name led to it."""
        address = _parsed(text)
        return address is not None and (
            self._is_named(str(address)) or (self._public and _is_public(address))
        )

    def _is_named(self, host: str) -> bool:
        host = host.lower().rstrip(".")
        return any(fnmatchcase(host, one) for one in self._named)


def install(patterns: Sequence[str]) -> None:
    """Hold this process to ``patterns`` for good."""
    guard = Guard(patterns)
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else str(host)
        guard.name(text)
        found = [one for one in look_up(host, *args, **more) if guard.address(str(one[4][0]), text)]
        if not found:
            raise _refusal(text)
        return found

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto"):
            where = args[1]
            if isinstance(where, tuple) and where:
                guard.connect(str(where[0]))
            elif where is not None:  # a local socket: no source of data is one
                raise _refusal(str(where))

    socket.getaddrinfo = getaddrinfo
    sys.addaudithook(hook)


def _parsed(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _plain(text: str) -> str:
    return str(_parsed(text) or text)


def _is_public(address: _Address) -> bool:
    """Also of the address that another one carries inside."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast


refusals: Final[list[str]] = []
"""What was refused, in words: libraries wrap the error in their own, or try the next address."""


def _refusal(what: str) -> PermissionError:
    refusals.append(
        f"{what} is not among the hosts that this node may connect to (storage.hosts); an address "
        "that is not public must be named there"
    )
    return PermissionError(errno.EPERM, refusals[-1])
