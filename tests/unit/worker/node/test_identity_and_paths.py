"""The state directory: whose it may be, who holds it, what is in it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tasks.errors import ConfigError, NodeConflict
from worker.node.identity import AgentLock, agent_pid, boot_id, identify
from worker.node.paths import NodePaths, private_directory
from worker.plan import AttemptId

pytestmark = pytest.mark.unit


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(state_dir=tmp_path / "state")
    paths.create()
    return paths


def test_every_directory_is_for_the_nodes_user_alone(paths: NodePaths) -> None:
    paths.create()  # again
    for path in (paths.state_dir, *paths.state_dir.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"others can write to it .*{mode:04o}.*chmod go-w"):
        private_directory(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, 12_345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        private_directory(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_that_another_user_made_is_refused(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "state"
    target.mkdir(mode=0o700)
    path.symlink_to(target)
    private_directory(path)  # one's own is as good as the directory
    os.chown(path, 12_345, -1, follow_symlinks=False)
    with pytest.raises(ConfigError, match="is a link that user 12345 made"):
        private_directory(path)


def test_a_file_in_the_way_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch()
    with pytest.raises(ConfigError, match="is no directory"):
        private_directory(path)
    with pytest.raises(ConfigError, match=r"state/below: cannot be made.*node\.state_dir"):
        private_directory(path / "below")


def test_an_attempts_directories_are_named_by_job_and_fence(tmp_path: Path) -> None:
    paths = NodePaths(state_dir=tmp_path)
    attempt = AttemptId(job_id="job-1", fence=3)
    assert paths.attempt(attempt) == tmp_path / "attempts" / "job-1~3"
    assert paths.scratch(attempt) == tmp_path / "work" / "job-1~3"
    assert paths.job("job-1") == tmp_path / "jobs" / "job-1"


def test_the_lock_is_for_one_agent_and_names_it(paths: NodePaths) -> None:
    assert agent_pid(paths) is None
    with AgentLock.take(paths):
        held = json.loads(paths.agent_lock.read_text())
        assert held["pid"] == os.getpid()
        assert held["boot_id"] == boot_id()
        assert agent_pid(paths) == os.getpid()
        with pytest.raises(NodeConflict, match=f"with pid {os.getpid()}"):
            AgentLock.take(paths)
    assert agent_pid(paths) is None
    AgentLock.take(paths).release()


def test_a_node_keeps_its_id_and_each_agent_is_an_instance(paths: NodePaths) -> None:
    first, second = identify("node-a", paths), identify("node-a", paths)
    assert first.node_id == second.node_id
    assert first.instance != second.instance
    paths.node_id.write_text("nonsense\n")
    assert len(identify("node-a", paths).node_id) == 32
