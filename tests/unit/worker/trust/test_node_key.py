"""How the node's key is made, and what is said of the end of its enrolment."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from pathlib import Path

import pytest

from tasks.enrolment import enrol
from tasks.errors import ConfigError, KeyUnusable
from tasks.trust import SigningKey
from worker.cli.checks.base import Situation, Verdict
from worker.cli.checks.trust import check_trust
from worker.config import NodeConfig
from worker.node.paths import NodePaths
from worker.trust.node_key import Ending, enrolment_of, node_key, node_signer

pytestmark = pytest.mark.unit

OPERATOR = SigningKey.generate()
DAY = 86400.0


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    found = NodePaths(state_dir=tmp_path)
    found.create()
    return found


@pytest.fixture
def config(paths: NodePaths) -> NodeConfig:
    return NodeConfig.model_validate({"node": {"name": "node-a", "state_dir": paths.state_dir}})


def enrolled(paths: NodePaths, left_days: float, node: str = "node-a") -> None:
    now = time.time() + left_days * DAY - 40 * DAY
    made = enrol(node, node_key(paths).public, OPERATOR, now=now, lifetime=40 * DAY)
    paths.enrolment.write_text(json.dumps(made.to_json()))


def test_a_key_that_cannot_be_written_is_an_error_and_leaves_nothing(
    paths: NodePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(paths.state_dir.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(KeyUnusable, match="cannot be written: No space left on device"):
            node_key(paths)
    assert sorted(paths.state_dir.iterdir()) == before
    assert node_key(paths).public.key_id == node_key(paths).public.key_id


@pytest.mark.parametrize(
    ("left", "verdict", "said"),
    [
        (35, Verdict.OK, "no key is trusted"),
        (20, Verdict.MISSING, "runs out in 20.0 days"),
        (-2, Verdict.MISSING, "ran out 2.0 days ago"),
    ],
)
def test_doctor_tells_of_an_enrolment_that_ends(
    paths: NodePaths, config: NodeConfig, left: float, verdict: Verdict, said: str
) -> None:
    enrolled(paths, left)
    found = check_trust(Situation(config=config, config_path=None, redis_url=None))
    assert found.verdict is verdict
    assert said in found.found
    assert ("keys enrol" in found.todo) == (verdict is not Verdict.OK)


def test_doctor_tells_of_an_enrolment_with_which_no_node_starts(
    paths: NodePaths, config: NodeConfig
) -> None:
    situation = Situation(config=config, config_path=None, redis_url=None)
    assert check_trust(situation).verdict is Verdict.OK  # there is none, and no key is made
    assert not paths.node_key.exists()
    enrolled(paths, 35, node="node-b")
    found = check_trust(situation)
    assert found.verdict is Verdict.BLOCKS
    assert "is of node node-b" in found.why
    with pytest.raises(ConfigError, match="is of node node-b"):
        node_signer(config, paths)
    enrolled(paths, 35)
    paths.node_key.unlink()
    with pytest.raises(ConfigError, match="have that enrolled"):
        node_signer(config, paths)


def test_a_node_says_once_a_day_that_its_enrolment_ends(
    paths: NodePaths, config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled(paths, 35)
    ending, now = Ending(enrolment_of(config, paths)), time.time()
    with caplog.at_level(logging.INFO):
        for hours in range(0, 36 * 24, 6):
            ending.say(now + hours * 3600)
    levels = [one.levelno for one in caplog.records if "trust.enrolment" in one.getMessage()]
    assert levels == [logging.WARNING] * 30 + [logging.ERROR]
    Ending(None).say(now)
