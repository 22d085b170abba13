"""Accounts of Redis, as lines. What they allow is tried in tests/integration/hub/test_roles.py."""

from __future__ import annotations

import pytest

from tasks.errors import ConfigError
from worker.trust.acl import Role, acl_line

pytestmark = pytest.mark.unit

PASSWORD = "sixteen-or-more-characters"


@pytest.mark.parametrize("role", Role)
def test_the_password_is_in_no_line(role: Role) -> None:
    line = acl_line(role, "one", PASSWORD, node="node-a")
    assert PASSWORD not in line
    assert line.startswith("user one on #")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("user", "password", "node", "wrong"),
    [
        ("a b", PASSWORD, "node-a", "user"),
        ("a +@all", PASSWORD, "node-a", "user"),
        ("a", "short", "node-a", "password: at least 16"),
        ("a", PASSWORD + " +@all", "node-a", "password"),
        ("a", PASSWORD, "", "node.name"),
        ("a", PASSWORD, "*", "node.name"),
        ("a", PASSWORD, "node-a ~*", "node.name"),
    ],
)
def test_nothing_can_be_slipped_into_a_line(
    user: str, password: str, node: str, wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        acl_line(Role.NODE, user, password, node=node)


def test_another_prefix_is_another_hub() -> None:
    line = acl_line(Role.PRODUCER, "one", PASSWORD, prefix="lab:")
    assert "cyxwiz:" not in line
    assert "~lab:job:*" in line
