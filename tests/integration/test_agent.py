"""The agent with real processes and a real Redis; stand-ins take the place of Celery workers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.nodes import Start, agents, gone, serving, stand_in
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.node import slot_records
from worker.node.identity import boot_id
from worker.node.paths import NodePaths
from worker.node.processes import slot_leaders
from worker.node.slot_records import SlotRecord

pytestmark = pytest.mark.integration


@pytest.fixture
def hub() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture
def start(tmp_path: Path, hub: str) -> Iterator[Start]:
    with agents(tmp_path, hub) as start:
        yield start


def test_it_says_when_each_slot_and_the_node_are_ready(start: Start) -> None:
    agent = start(cpu=2)
    agent.wait_ready()
    pids = {slot: agent.worker_pid(slot) for slot in ("cpu0", "cpu1")}
    assert sorted(agent.said) == [
        f"cpu0 ready (pid {pids['cpu0']})",
        f"cpu1 ready (pid {pids['cpu1']})",
        "node ready",
    ]


def test_a_worker_that_is_killed_is_replaced_and_its_children_end(start: Start) -> None:
    agent = start(worker=stand_in("child"))
    agent.wait_ready()
    first = agent.worker_pid()
    child_file = agent.paths.slots / "cpu0.child"
    wait_until(child_file.exists, what="the pool child")
    child = int(child_file.read_text())
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: agent.worker_pid() != first, what="another worker")
    assert gone(child)
    assert agent.event("slot.ended")["how"] == "signal 9"  # type: ignore[index]  # None fails too


def test_a_stop_lets_the_job_in_progress_end_first(start: Start) -> None:
    agent = start()
    agent.wait_ready()
    job = agent.paths.slots / "cpu0.job"
    job.touch()
    agent.process.send_signal(signal.SIGTERM)
    wait_until(lambda: agent.event("node.draining"), what="the drain")
    assert agent.process.poll() is None
    job.unlink()
    assert agent.process.wait(10) == 0
    assert (agent.paths.slots / "cpu0.last").read_text() == "SIGTERM"
    assert not serving(agent.paths.state_dir)


def test_a_second_signal_has_the_job_handed_back(start: Start) -> None:
    agent = start()
    agent.wait_ready()
    (agent.paths.slots / "cpu0.job").touch()
    agent.process.send_signal(signal.SIGINT)
    wait_until(lambda: agent.event("node.draining"), what="the drain")
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(10) == 0
    assert (agent.paths.slots / "cpu0.last").read_text() == "SIGQUIT"


def test_a_drain_with_a_bound_hands_the_job_back_when_it_is_over(start: Start) -> None:
    agent = start(drain=0.2)
    agent.wait_ready()
    (agent.paths.slots / "cpu0.job").touch()
    assert agent.stop() == 0
    assert (agent.paths.slots / "cpu0.last").read_text() == "SIGQUIT"


def test_a_worker_deaf_to_signals_is_killed_with_its_children(start: Start) -> None:
    agent = start(worker=stand_in("deaf", "child"), drain=0.0, kill_after=0.2)
    agent.wait_ready()
    worker = agent.worker_pid()
    assert agent.stop() == 0
    assert gone(worker)
    assert not serving(agent.paths.state_dir)


def test_the_next_agent_takes_over_the_workers_of_a_killed_one(start: Start) -> None:
    first = start()
    first.wait_ready()
    worker = first.worker_pid()
    first.kill()
    assert not gone(worker), "a slot worker lives on without its agent"
    second = start()
    second.wait_ready()
    assert second.said == [f"cpu0 ready (pid {worker})", "node ready"]
    os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: second.paths.slot_ready("cpu0").exists() and second.worker_pid() != worker,
        what="a worker that the second agent started",
    )
    assert second.stop() == 0
    assert not serving(second.paths.state_dir)


def test_a_worker_that_died_while_there_was_no_agent_is_replaced(start: Start) -> None:
    first = start(worker=stand_in("child"))
    first.wait_ready()
    worker = first.worker_pid()
    child_file = first.paths.slots / "cpu0.child"
    wait_until(lambda: child_file.exists() and child_file.read_text(), what="the pool child")
    first.kill()
    os.kill(worker, signal.SIGKILL)
    child = int(child_file.read_text())
    assert not gone(child)
    second = start(worker=stand_in("child"))
    second.wait_ready()
    assert second.worker_pid() != worker
    assert gone(child), "what the dead worker left would run beside the new one"


@pytest.mark.parametrize("differs", [{"boot_id": "another"}, {"start": 1}], ids=["boot", "start"])
def test_a_process_that_only_has_the_pid_is_left_alone(
    start: Start, tmp_path: Path, differs: dict[str, object]
) -> None:
    innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        entry = procfs.process(innocent.pid)
        assert entry is not None
        record = SlotRecord(
            slot="cpu0",
            pid=innocent.pid,
            start=entry.start,
            boot_id=boot_id(),
            digest="",
            started=0.0,
        )
        paths = NodePaths(state_dir=tmp_path / "state")
        paths.create()
        slot_records.write(paths, replace(record, **differs))  # type: ignore[arg-type]  # a test's own
        agent = start()
        agent.wait_ready()
        assert agent.worker_pid() != innocent.pid
        assert agent.stop() == 0
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_worker_whose_record_is_lost_is_found(start: Start) -> None:
    first = start()
    first.wait_ready()
    worker = first.worker_pid()
    first.kill()
    first.paths.slot_record("cpu0").unlink()
    second = start()
    second.wait_ready()
    assert gone(worker), "it may have been started with anything, so it is replaced"
    left = slot_leaders(str(second.paths.state_dir), "cpu0", second.paths.slot_lock("cpu0"))
    assert [one.pid for one in left] == [second.worker_pid()]


def test_whoever_only_says_that_it_is_a_slots_worker_is_none(start: Start, tmp_path: Path) -> None:
    """As a job can, in its environment; its slot would never be served again."""
    deaf = "trap '' TERM QUIT; echo up; while :; do sleep 0.1; done"
    state = {"CYXWIZ_STATE_DIR": str(tmp_path / "state"), "CYXWIZ_SLOT": "cpu0"}
    with subprocess.Popen(
        ["/bin/sh", "-c", deaf],
        env={**os.environ, **state},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as impostor:
        try:
            assert impostor.stdout is not None
            assert impostor.stdout.readline() == b"up\n"
            agent = start()
            assert agent.paths.state_dir == tmp_path / "state"
            agent.wait_ready()
            assert agent.worker_pid() != impostor.pid
            assert not agent.event("slot.adopted")
            assert agent.stop() == 0
            assert impostor.poll() is None
        finally:
            impostor.kill()


def test_a_worker_with_another_configuration_is_drained_and_replaced(start: Start) -> None:
    first = start()
    first.wait_ready()
    worker = first.worker_pid()
    job = first.paths.slots / "cpu0.job"
    job.touch()
    first.kill()
    second = start(labels={"site": "attic"})
    wait_until(lambda: second.event("slot.outdated"), what="the drain")
    assert not gone(worker), "its job goes on"
    job.unlink()
    second.wait_ready()
    assert second.worker_pid() != worker
    assert (second.paths.slots / "cpu0.last").read_text() == "SIGTERM"


def test_a_slot_that_is_no_longer_configured_is_drained(start: Start) -> None:
    first = start(cpu=2)
    first.wait_ready()
    retired = first.worker_pid("cpu1")
    first.kill()
    second = start(cpu=1)
    second.wait_ready()
    wait_until(lambda: gone(retired), what="the end of cpu1's worker")
    wait_until(lambda: slot_records.recorded(second.paths) == ["cpu0"], what="its record's end")


def test_a_second_agent_of_the_same_directory_is_refused(start: Start) -> None:
    first = start()
    first.wait_ready()
    second = start(name="node-b")
    assert second.process.wait(10) != 0
    assert f"an agent runs there already, with pid {first.process.pid}" in second.errors
    assert first.process.poll() is None


def test_a_second_node_with_the_same_name_is_refused(start: Start, tmp_path: Path) -> None:
    first = start()
    first.wait_ready()
    second = start(state_dir=str(tmp_path / "other"))
    assert second.process.wait(10) != 0
    assert "node name 'node-a' is taken" in second.errors
    assert f"with pid {first.process.pid}" in second.errors
    assert not serving(tmp_path / "other")


def test_a_crash_loop_is_reported_with_the_last_lines_of_the_log(start: Start) -> None:
    agent = start(worker=stand_in("crash"))
    wait_until(lambda: agent.event("slot.crash_loop"), what="the report")
    report = agent.event("slot.crash_loop")
    assert report is not None
    assert report["how"] == "exit code 3"
    assert report["last_lines"][-1] == "cannot go on: the disk is made of cheese"
    assert agent.stop() == 0


def test_a_program_that_cannot_be_executed_is_a_crash_loop_too(start: Start) -> None:
    agent = start(worker=["/nowhere/python"])
    wait_until(lambda: agent.event("slot.crash_loop"), what="the report")
    lines = agent.event("slot.crash_loop")["last_lines"]  # type: ignore[index]  # None fails too
    assert "/nowhere/python: No such file or directory" in lines[-1]
    assert agent.stop() == 0


def test_a_slot_that_cannot_be_recorded_is_tried_again(start: Start, tmp_path: Path) -> None:
    """As on a full disk: the agent goes on, and leaves no worker that nobody knows of."""
    paths = NodePaths(state_dir=tmp_path / "state")
    paths.create()
    in_the_way = paths.slot_record("cpu0").with_suffix(".new")
    in_the_way.mkdir()
    agent = start()
    wait_until(lambda: agent.event("slot.crash_loop"), what="the report")
    how = agent.event("slot.crash_loop")["how"]  # type: ignore[index]  # None fails too
    assert "cannot be started: " in how
    assert str(in_the_way) in how
    in_the_way.rmdir()
    agent.wait_ready()
    assert agent.stop() == 0
    assert not serving(agent.paths.state_dir)


def test_a_slot_that_cannot_be_told_to_leave_its_job_keeps_no_other_from_it(start: Start) -> None:
    agent = start(cpu=2)
    agent.wait_ready()
    agent.paths.slot_leaving("cpu0").with_suffix(".leaving-new").mkdir()
    agent.process.send_signal(signal.SIGUSR1)
    assert agent.process.wait(10) == 0
    assert agent.event("slot.unmarked")["slot"] == "cpu0"  # type: ignore[index]  # None fails too
    assert slot_records.leaving(agent.paths, "cpu0") is None, "its job goes back to the queue"
    assert slot_records.leaving(agent.paths, "cpu1") == 300
    lasts = [(agent.paths.slots / f"cpu{number}.last").read_text() for number in (0, 1)]
    assert lasts == ["SIGQUIT", "SIGQUIT"]


def test_what_a_killed_agent_said_of_leaving_a_job_holds_for_no_later_stop(start: Start) -> None:
    first = start()
    first.wait_ready()
    first.kill()
    slot_records.mark_leaving(first.paths, "cpu0", 300)  # and it died before it told the worker
    second = start()
    second.wait_ready()
    assert slot_records.leaving(second.paths, "cpu0") is None
    slot_records.mark_leaving(second.paths, "cpu0", 300)
    second.process.send_signal(signal.SIGQUIT)
    assert second.process.wait(10) == 0
    assert (second.paths.slots / "cpu0.last").read_text() == "SIGQUIT"
    assert slot_records.leaving(second.paths, "cpu0") is None, "its job was handed back"


def test_a_redis_that_refuses_is_an_error_that_names_it(start: Start, tmp_path: Path) -> None:
    agent = start(redis_url="redis://127.0.0.1:1/0")
    assert agent.process.wait(10) != 0
    assert "cannot use Redis at redis://127.0.0.1:1/0" in agent.errors
    assert not serving(tmp_path / "state")


def test_scratch_of_no_attempt_is_removed_at_the_start(start: Start, tmp_path: Path) -> None:
    orphan = tmp_path / "state" / "work" / "job-1~1"
    orphan.mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    (tmp_path / "state" / "work").chmod(0o700)
    agent = start()
    agent.wait_ready()
    assert not orphan.exists()
