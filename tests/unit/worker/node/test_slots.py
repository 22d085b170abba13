"""How slot workers are started, and what is remembered of them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.settings import Settings
from worker.config import NodeConfig
from worker.node import slot_records
from worker.node.paths import NodePaths
from worker.node.slot_records import SlotRecord
from worker.node.slots import (
    Launch,
    Slot,
    celery_command,
    celery_env,
    cpu_slots,
    digest_of,
    slot_env,
)

pytestmark = pytest.mark.unit
RECORD = SlotRecord(slot="cpu0", pid=17, start=4711, boot_id="b", digest="d", started=1.5)


def config(tmp_path: Path, **node: object) -> NodeConfig:
    return NodeConfig.model_validate(
        {"node": {"name": "node-a", "state_dir": str(tmp_path), **node}}
    )


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(state_dir=tmp_path / "state")
    paths.create()
    return paths


def test_a_slots_worker_is_celerys_with_one_child_and_no_chatter() -> None:
    command = celery_command("node-a")(Slot(name="cpu0"))
    assert command[:6] == [sys.executable, "-m", "celery", "-A", "worker", "worker"]
    assert {
        "--hostname=cpu0@node-a",
        "--pool=prefork",
        "--concurrency=1",
        "--without-gossip",
        "--without-mingle",
    } <= set(command)
    assert "--without-heartbeat" not in command


def test_slots_are_numbered() -> None:
    assert [slot.name for slot in cpu_slots(3)] == ["cpu0", "cpu1", "cpu2"]


def test_a_worker_is_told_where_it_belongs(tmp_path: Path) -> None:
    settings = Settings(redis_url="unix:///run/r.sock", prefix="x:", lease_ttl_ms=1500)
    env = celery_env(
        config(tmp_path),
        settings,
        config_path=Path("node.yaml"),
        inherited={"HOME": "/home/a", "NOTIFY_SOCKET": "/run/systemd/notify"},
    )
    assert env["CYXWIZ_NODE"] == "node-a"
    assert env["CYXWIZ_STATE_DIR"] == str(tmp_path)
    assert env["CYXWIZ_CONFIG"] == str(Path("node.yaml").absolute())
    assert env["HOME"] == "/home/a"
    assert "NOTIFY_SOCKET" not in env
    assert Settings.from_env(env) == settings


def test_a_worker_has_a_temporary_directory_of_its_own(paths: NodePaths) -> None:
    launch = Launch(command=celery_command("node-a"), env={"TMPDIR": "/tmp", "A": "b"}, digest="")
    env = slot_env(launch, Slot(name="cpu1"), paths)
    assert env == {"A": "b", "CYXWIZ_SLOT": "cpu1", "TMPDIR": str(paths.temp / "cpu1")}


def test_a_worker_is_told_that_its_slot_is_retired_and_is_another_one_then(
    paths: NodePaths,
) -> None:
    launch = Launch(command=celery_command("node-a"), env={}, digest="d")
    slot, late = Slot(name="cpu1"), Slot(name="cpu1", retired=True)
    assert slot_env(launch, late, paths)["CYXWIZ_SLOT_RETIRED"] == "1"
    assert "CYXWIZ_SLOT_HANDS_BACK" not in slot_env(launch, late, paths)
    last = replace(late, hands_back=True)
    assert slot_env(launch, last, paths)["CYXWIZ_SLOT_HANDS_BACK"] == "1"
    assert launch.digest_for(slot) != launch.digest_for(late)


def test_the_digest_changes_with_what_a_worker_is_started_with(tmp_path: Path) -> None:
    settings = Settings()
    digest = digest_of(config(tmp_path), settings)
    assert digest == digest_of(config(tmp_path), Settings())
    assert digest != digest_of(config(tmp_path, pool="p"), settings)
    assert digest != digest_of(config(tmp_path), Settings(prefix="x:"))


def test_a_record_comes_back_as_it_was(paths: NodePaths) -> None:
    slot_records.write(paths, RECORD)
    assert slot_records.read(paths, "cpu0") == RECORD
    assert slot_records.recorded(paths) == ["cpu0"]
    slot_records.forget(paths, "cpu0")
    slot_records.forget(paths, "cpu0")
    assert slot_records.read(paths, "cpu0") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 1}', '{"v": 2, "slot": "cpu0"}', "17"])
def test_a_record_that_cannot_be_understood_is_none(paths: NodePaths, text: str) -> None:
    paths.slot_record("cpu0").write_text(text)
    assert slot_records.read(paths, "cpu0") is None


def test_only_the_worker_itself_makes_a_slot_ready(paths: NodePaths) -> None:
    assert not slot_records.ready(paths, "cpu0", 17)
    paths.slot_ready("cpu0").write_text("16\n")
    assert not slot_records.ready(paths, "cpu0", 17)
    paths.slot_ready("cpu0").write_text("17\n")
    assert slot_records.ready(paths, "cpu0", 17)


def test_a_big_log_is_put_aside(paths: NodePaths) -> None:
    path = paths.slot_log("cpu0")
    path.write_text("old\n" * 10)
    os.close(slot_records.open_log(path, most_bytes=100))
    assert path.read_text() == "old\n" * 10
    os.close(slot_records.open_log(path, most_bytes=10))
    assert path.read_text() == ""
    assert path.with_name("cpu0.log.1").read_text() == "old\n" * 10


def test_the_last_lines_of_a_log_are_bounded(paths: NodePaths) -> None:
    path = paths.slot_log("cpu0")
    assert slot_records.last_lines(path) == []
    path.write_bytes(b"\xff" * 100_000 + b"\n" + b"line\n" * 5)
    lines = slot_records.last_lines(path)
    assert lines[-5:] == ["line"] * 5
    assert sum(map(len, lines)) <= 4096
