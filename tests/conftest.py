"""Fixtures for everybody: a real redis-server, and the hub of the jobs on it.

Each pytest process has one server of its own, started when a test first asks for it and emptied
before each test that does. The environment names it before anything is imported, so that
`tasks.app`, `train` and every process that a test starts use this server and never another.
A test that kills or freezes it may leave it so: the next one gets it whole again.

What a test and its processes put into the system's directory for temporary files goes with the
session. (`tmp_path` is pytest's own, and stays where it always is.)
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis

from tests.support.redis_server import MISSING, RedisServer, redis_binary, short_directory

if TYPE_CHECKING:  # at run time only once the environment is set, and only where it is needed
    from tasks.keys import Keys
    from tasks.publishing import JobCelery
    from tasks.record import Records
    from tasks.settings import Settings

# No test is timed: a host that is busy would fail it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Inherited by the processes of xdist, or theirs would lie within this one's.
_ROOT = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
_TEMP = short_directory(_ROOT)
atexit.register(shutil.rmtree, _TEMP, ignore_errors=True)
os.environ["TMPDIR"] = tempfile.tempdir = str(_TEMP)

_SERVER = RedisServer(directory=_TEMP / "redis")
atexit.register(_SERVER.close)

_TOOLS = {"CYXWIZ_TORCH_PYTHON"}  # says where a Python with PyTorch is, and sets no node up
for _name in [name for name in os.environ if name.startswith("CYXWIZ_")]:
    if _name not in _TOOLS:
        del os.environ[_name]  # what a developer has set for real nodes is not for tests
os.environ["CYXWIZ_REDIS_URL"] = _SERVER.url


_WAITING = 4
"""How many processes few CPUs have: tests of whole nodes wait for most of their time."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """What ``-n auto`` stands for; None: what xdist makes of it."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    may_use = getattr(os, "sched_getaffinity", None)  # of Linux
    cpus = len(may_use(0)) if may_use else os.cpu_count() or 1
    return max(cpus, min(2 * cpus, _WAITING))


SAID = "said"
"""A property of a test: what it has found out, for whoever reads the end of what pytest says."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have found out, those of xdist's processes too."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, text in report.user_properties if report.when == "call" else ():
            if name == SAID:
                terminalreporter.ensure_newline()
                terminalreporter.write_line(str(text))


@dataclass(frozen=True)
class Hub:
    """Where jobs are recorded and queued in a test: `tasks.app` and `train` use the same one."""

    server: RedisServer
    settings: Settings
    client: redis.Redis
    """Decodes its answers."""

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def keys(self) -> Keys:
        return self.settings.keys

    @cached_property
    def records(self) -> Records:
        from tasks.record import Records

        return Records(self.client, self.keys, terminal_ttl_s=self.settings.result_ttl_s)

    @property
    def env(self) -> dict[str, str]:
        """The environment for a process that shall use this hub."""
        return {
            **os.environ,
            "CYXWIZ_REDIS_URL": self.settings.redis_url,
            "CYXWIZ_PREFIX": self.settings.prefix,
            "CYXWIZ_LEASE_TTL": str(self.settings.lease_ttl_ms / 1000),
        }

    @property
    def app(self) -> JobCelery:
        """`tasks.app`."""
        from tasks.celery import app

        return app  # type: ignore[no-any-return]  # Celery has no type hints

    def other(self, **differs: object) -> Hub:
        """A hub on the same server with other `Settings`, such as ``prefix="mine:"``."""
        from dataclasses import replace

        return Hub(self.server, replace(self.settings, **differs), self.client)  # type: ignore[arg-type]  # a test's own keywords


@pytest.fixture
def redis_server() -> RedisServer:
    """A running, empty redis-server. Fails under CI where there is none, else skips."""
    if redis_binary() is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return _SERVER.heal()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of `redis_server` that decodes its answers."""
    client = redis_server.client()
    yield client
    client.close()


@pytest.fixture
def hub(redis_server: RedisServer, redis_client: redis.Redis) -> Hub:
    """The hub on `redis_server`, with the default prefix and leases of 60 s; see `Hub.other`."""
    from tasks.settings import Settings

    return Hub(redis_server, Settings(redis_url=redis_server.url), redis_client)
