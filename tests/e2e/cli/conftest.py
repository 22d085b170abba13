"""One Redis and one node for all tests of the command line, and jobs on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.cli_jobs import STEPS, Busy, python, submitted
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="package")
def hub() -> Iterator[RedisServer]:
    with RedisServer(tcp=True) as server:
        yield server


@pytest.fixture(scope="package")
def cli(hub: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command, with a node of two slots that takes what it submits."""
    directory = tmp_path_factory.mktemp("cli")
    config = directory / "server-node.yaml"
    config.write_text(
        json.dumps(
            {
                "execution": {"mode": "native", "allow_untrusted_native": True},
                "node": {"name": "node-a", "state_dir": str(directory / "state")},
                "slots": {"cpu": 2},
                "timeouts": {"stop_grace": 1},
            }
        )
    )
    cli = Cli(cwd=directory, env={"CYXWIZ_REDIS_URL": hub.url})
    node = cli.start("node", "--config", str(config), "--drain", "0")
    try:
        node.wait_said("node ready")
        yield cli
        done = node.end()
        assert done.code == 0, done
    finally:
        node.close()


@pytest.fixture
def done_job(cli: Cli) -> str:
    """A job that has succeeded."""
    job_id = submitted(cli, python(STEPS))
    assert cli("follow", job_id).code == 0
    return job_id


@pytest.fixture
def busy(cli: Cli, tmp_path: Path) -> Iterator[Busy]:
    job = Busy(cli, tmp_path)
    job.wait()
    yield job
    job.end()
    assert cli("follow", job.job_id).code in (0, 7)
