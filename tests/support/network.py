"""A network of one node's own, by a network namespace: it can be cut off as by a pulled cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, kw_only=True)
class Network:
    """One link, from the host to a namespace."""

    name: str
    host: str
    """The host's address on it."""

    @property
    def within(self) -> tuple[str, ...]:
        """What runs a program there."""
        return ("nsenter", f"--net=/run/netns/{self.name}", "--")

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        _ip("-n", self.name, "link", "set", "up0", "down")

    def mend(self) -> None:
        """All comes through again."""
        _ip("-n", self.name, "link", "set", "up0", "up")


@contextmanager
def network() -> Iterator[Network]:
    """A new one. Skips where this user may make none."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter"))):
        pytest.skip("a network namespace needs root, ip and nsenter (Debian: iproute2, util-linux)")
    number = os.getpid() % 16_000  # of networks of four addresses in 198.18.0.0/16, for tests
    made = Network(name=f"cyx{os.getpid()}", host=_address(number, 1))
    try:
        _ip("netns", "add", made.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        _ip("link", "add", made.name, "type", "veth", "peer", "name", "up0", "netns", made.name)
        _ip("address", "add", f"{made.host}/30", "dev", made.name)
        _ip("link", "set", made.name, "up")
        _ip("-n", made.name, "address", "add", f"{_address(number, 2)}/30", "dev", "up0")
        _ip("-n", made.name, "link", "set", "lo", "up")
        made.mend()
        yield made
    finally:
        _ip("netns", "delete", made.name)  # its end of the link goes with it, and so the other one


def _address(number: int, last: int) -> str:
    return f"198.18.{number // 64}.{number % 64 * 4 + last}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
