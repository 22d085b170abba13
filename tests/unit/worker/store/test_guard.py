"""Which addresses a transfer may connect to. Real connections: in the integration tests."""

from __future__ import annotations

import pytest

from worker.store.errands.guard import Guard

pytestmark = pytest.mark.unit

PUBLIC = ("93.184.216.34", "2606:2800:220:1::1")
INSIDE = (
    "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "fe80::1%eth0", "fd00::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "::",
)  # fmt: skip


def connects(guard: Guard, address: str) -> bool:
    try:
        guard.connect(address)
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("address", INSIDE)
def test_the_star_is_for_public_addresses(address: str) -> None:
    guard = Guard(["*"])
    assert not connects(guard, address)
    assert not guard.address(address, "rebound.example.org")
    assert not connects(guard, address), "a name that leads there does not open it"


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert connects(Guard(["*"]), address)
    assert not connects(Guard([]), address)
    assert not connects(Guard(["data.example.org"]), address)


def test_a_named_host_may_be_anywhere() -> None:
    guard = Guard(["minio.lan", "*.corp.example"])
    guard.name("MinIO.lan.")
    guard.name("a.corp.example")
    with pytest.raises(PermissionError, match=r"storage\.hosts"):
        guard.name("corp.example")
    assert guard.address("10.0.0.5", "minio.lan")
    assert connects(guard, "10.0.0.5")
    assert not connects(guard, "10.0.0.6")


def test_a_named_address() -> None:
    guard = Guard(["10.0.0.5", "10.1.*"])
    assert connects(guard, "10.0.0.5")
    assert connects(guard, "10.1.2.3")
    assert not connects(guard, "10.0.0.50")
    assert guard.address("10.0.0.5", "whatever.example")


@pytest.mark.parametrize("text", ["localhost", "example.org", "", "/run/x.sock"])
def test_what_is_no_address_is_not_connected_to(text: str) -> None:
    assert not connects(Guard(["*"]), text)
