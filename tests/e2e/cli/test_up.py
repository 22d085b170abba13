"""``cyxwiz up``: a cluster of one machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli, mentioning
from tests.support.cli_jobs import STEPS, python
from tests.support.redis_server import free_port, short_directory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Cli]:
    """The command of a user who has set nothing up."""
    state = short_directory()
    config = tmp_path / "server-node.yaml"
    config.write_text(
        json.dumps(
            {
                "node": {"name": "node-a", "state_dir": str(state / "s")},
                "slots": {"cpu": 1},
                "docker": {"socket": str(tmp_path / "none.sock")},
                "podman": {"enabled": False},
                "metrics": {"port": free_port()},
            }
        )
    )
    yield Cli(cwd=tmp_path, env={"CYXWIZ_CONFIG": str(config)})
    assert mentioning(state) == []


def test_a_cluster_comes_up_with_one_command_and_leaves_nothing_running(alone: Cli) -> None:
    up = alone.start("up", "--allow-untrusted-native")
    try:
        up.wait_said("node ready")
        assert "jobs run natively, as this user" in up.out
        url = re.search(r"export CYXWIZ_REDIS_URL=(\S+)", up.out)
        assert url is not None
        done = alone("submit", "-", "--follow", stdin=python(STEPS))
        assert done.code == 0, done
        assert alone("nodes", "--redis", url[1]).out.count("node-a") == 1
        second = alone("up", "--allow-untrusted-native")
        assert (second.code, "an agent runs there already" in second.err) == (6, True)
        done = up.end()
        assert done.code == 0, done
    finally:
        up.close()
    again = alone.start("up", "--allow-untrusted-native")
    try:
        again.wait_said("node ready")
        assert "succeeded" in alone("jobs").out, "it has kept what it was told"
    finally:
        again.end()
        again.close()
    wait_until(lambda: again.process.poll() is not None)


def test_where_no_job_could_run_it_says_so_and_starts_nothing(alone: Cli) -> None:
    done = alone("up")
    assert done.code == 9
    assert "no job could run here" in done.err
    assert "--allow-untrusted-native" in done.err


def test_completion_is_clicks_own(alone: Cli) -> None:
    script = alone.fresh(env={"_CYXWIZ_COMPLETE": "bash_source"})
    assert "_cyxwiz_completion()" in script.out
