"""``cyxwiz mode``, and a node that reads its configuration again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli, Started
from tests.support.cli_jobs import Busy, python, submitted
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.cli.mode import with_mode
from worker.node import slot_records
from worker.node.paths import NodePaths

pytestmark = pytest.mark.e2e


@pytest.fixture
def own(hub: RedisServer, tmp_path: Path) -> Iterator[tuple[Cli, Started, Path]]:
    """A node of the test's own, in a pool of its own, and its configuration."""
    config = tmp_path / "server-node.yaml"
    config.write_text(
        "# mine\n"
        "execution: {mode: native, allow_untrusted_native: true}  # as it was\n"
        f"node: {{name: node-m, pool: moody, state_dir: {tmp_path / 'state'}}}\n"
        "slots: {cpu: 1}\n"
        "docker: {enabled: false}\n"
        "podman: {enabled: false}\n"
    )
    cli = Cli(cwd=tmp_path, env={"CYXWIZ_REDIS_URL": hub.url})
    node = cli.start("node", "--config", str(config), "--drain", "0")
    try:
        node.wait_said("node ready")
        yield cli, node, config
    finally:
        node.close()


def test_a_mode_is_taken_up_and_the_job_in_progress_is_not_touched(
    own: tuple[Cli, Started, Path], tmp_path: Path
) -> None:
    cli, node, config = own
    paths = NodePaths(state_dir=tmp_path / "state")
    busy = Busy(cli, tmp_path, pool="moody")
    busy.wait()
    done = cli("mode", "set", "auto", "--config", str(config))
    assert done.code == 0, done
    node.wait_said("configuration read again: mode auto")
    assert "execution: {mode: auto, allow_untrusted_native: true}  # as it was" in (
        config.read_text()
    )
    assert config.read_text().startswith("# mine\n")
    found = cli("mode", "get", "--json", "--config", str(config)).json
    assert (found["mode"], found["uses"]) == ("auto", "native")
    assert found["why"] == "docker.enabled is false; podman.enabled is false"
    busy.end()
    assert cli("follow", busy.job_id).code == 0
    after = submitted(cli, python("print('after')", pool="moody"))
    assert cli("follow", after).code == 0
    # a wrong file is not taken up; one that forbids what is read now has its queues left
    config.write_text(config.read_text().replace("true}", "perhaps}"))
    os.kill(json.loads(paths.agent_lock.read_text())["pid"], signal.SIGHUP)
    node.wait_said("was not taken up")
    assert len(slot_records.queues(paths, "cpu0")) > 2
    config.write_text(config.read_text().replace("perhaps}", "false}"))
    os.kill(json.loads(paths.agent_lock.read_text())["pid"], signal.SIGHUP)
    wait_until(
        lambda: len(slot_records.queues(paths, "cpu0")) == 2, timeout=30, what="no class is read"
    )
    fixed = config.read_text().replace("node-m", "node-n")
    config.write_text(fixed)
    os.kill(json.loads(paths.agent_lock.read_text())["pid"], signal.SIGHUP)
    node.wait_said("node: a running node does not change this")


def test_a_mode_that_is_none_changes_nothing(own: tuple[Cli, Started, Path]) -> None:
    cli, _, config = own
    before = config.read_text()
    assert cli("mode", "set", "dokcer", "--config", str(config)).code != 0
    config.write_text(before + "nonsense: true\n")
    done = cli("mode", "set", "docker", "--config", str(config))
    assert done.code == 3
    assert "nonsense" in done.err
    assert config.read_text() == before + "nonsense: true\n"


def test_whoever_could_read_the_file_still_can(cli: Cli, tmp_path: Path) -> None:
    kept, link = tmp_path / "kept.yaml", tmp_path / "link.yaml"
    kept.write_text(f"node: {{state_dir: {tmp_path / 'state'}}}\n")
    kept.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(kept, 4321, 5432)
    link.symlink_to(kept)
    before = kept.stat()
    assert cli("mode", "set", "docker", "--config", str(link)).code == 0
    after = kept.stat()
    assert "mode: docker" in kept.read_text()
    assert link.is_symlink()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )
    env = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    done = cli("mode", "set", "docker", "--config", str(tmp_path / "new.yaml"), env=env)
    assert done.code == 0, done
    assert (tmp_path / "new.yaml").stat().st_mode & 0o777 == 0o644


def test_the_file_that_the_environment_names_is_the_one(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"node: {{state_dir: {tmp_path / 'state'}}}\n"
        "docker: {enabled: false}\n"
        "podman: {enabled: false}\n"
    )
    env = {"CYXWIZ_CONFIG": str(config)}
    done = cli("mode", "set", "native", env=env)
    assert done.code == 0, done
    assert "execution: {mode: native}" in config.read_text()
    assert cli("mode", "get", "--json", env=env).json["mode"] == "native"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "execution: {mode: podman}\n"),
        ("node: {name: a}", "node: {name: a}\nexecution: {mode: podman}\n"),
        ("execution: {mode: auto}\n", "execution: {mode: podman}\n"),
        (
            "execution: {allow_untrusted_native: true}  # x\n",
            "execution: {mode: podman, allow_untrusted_native: true}  # x\n",
        ),
        (
            "execution:\n  mode: auto  # y\n  allow_untrusted_native: true\n\nslots: {cpu: 1}\n",
            "execution:\n  mode: podman  # y\n  allow_untrusted_native: true\n\nslots: {cpu: 1}\n",
        ),
        (
            "execution:\n  allow_untrusted_native: true\n",
            "execution:\n  mode: podman\n  allow_untrusted_native: true\n",
        ),
    ],
)
def test_the_rest_of_the_file_stays(before: str, after: str) -> None:
    assert with_mode(before, "podman") == after
