"""Sentinel URLs: what they say, and what is refused."""

from __future__ import annotations

import pytest

from tasks.errors import ConfigError
from tasks.sentinel import SentinelUrl
from tasks.settings import Settings, mask

pytestmark = pytest.mark.unit

URL = "sentinel://me:s%2Fcret@one:1,two/3?name=main&sentinel_password=other"


def test_every_part_is_read() -> None:
    found = SentinelUrl.parse(URL)
    assert found.hosts == (("one", 1), ("two", 26379))
    assert (found.name, found.db) == ("main", 3)
    assert (found.username, found.password) == ("me", "s/cret")
    assert found.sentinel_password == "other"


def test_celery_is_told_the_same() -> None:
    settings = Settings(redis_url=URL)
    each = "sentinel://me:s%2Fcret@one:1/3;sentinel://me:s%2Fcret@two:26379/3"
    assert settings.celery_url == each
    assert settings.backend_url == f"tasks.results:SentinelJobBackend+{each}"
    found = SentinelUrl.parse(URL).transport_options
    assert found == {"master_name": "main", "sentinel_kwargs": {"password": "other"}}


def test_no_password_is_shown() -> None:
    shown = mask(URL)
    assert "cret" not in shown
    assert "other" not in shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://one:26379/0", "name=NAME"),
        ("sentinel:///0?name=main", "a host is missing"),
        ("sentinel://one:port/0?name=main", "a Sentinel URL such as"),
        ("sentinel://one/zero?name=main", "a Sentinel URL such as"),
        ("sentinel://one/0?name=main&nmae=x", "not nmae"),
    ],
)
def test_what_is_wrong_is_said(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Settings.from_env({"CYXWIZ_REDIS_URL": url})
