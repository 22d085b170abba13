"""The cases that a pool of devices must pass, by their numbers: who gets what, and who does not.

Those of devices that are lost, ill or parted (12 to 14) are in `test_health`, those of engines
(7 and 15) in `tests/integration/engine/test_gpus.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.conftest import SAID
from tests.integration.devices.node import ROOT, Node, gone
from tests.support.gpus import stress
from tests.support.gpus.stand_in import Host, uuid
from tests.support.runtimes import hear
from tests.support.waiting import wait_until
from worker.devices.allocation import Rules
from worker.devices.claims import DeviceBusy, NoSuchDevices
from worker.devices.inventory import StaticInventory
from worker.devices.nvml import NvmlInventory

pytestmark = pytest.mark.integration

DAEMON = """
import os, signal, sys, time
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        {shed}
        os.write(w, str(os.getpid()).encode())
        time.sleep(600)
    os._exit(0)
print(os.read(r, 20).decode(), flush=True)
time.sleep(600)
"""
KEEPS = DAEMON.format(shed="pass")


def first_line(handle: object) -> str:
    heard = hear(handle, until=lambda heard: b"\n" in heard.out)  # type: ignore[arg-type]
    return heard.out.split(b"\n")[0].decode()


def in_thread(do: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(do()), daemon=True)
    thread.start()
    return thread, found


def test_case_01_all_gpus_are_enumerated(host: Host, node: Node) -> None:
    host.gpu(5, name="NVIDIA L40S", memory=46068)
    shown = node.pool().state()
    assert [one.device.uuid for one in shown.devices] == [uuid(number) for number in range(8)]
    assert (shown.devices[5].device.name, shown.devices[5].device.memory_mb) == (
        "NVIDIA L40S",
        46068,
    )
    assert [one.free_mb for one in shown.devices[:2]] == [81920 - 600] * 2


def test_case_02_without_a_library_there_are_no_gpus_and_a_reason(tmp_path: Path) -> None:
    program = "from worker.devices.nvml import NvmlInventory as I; print(I().snapshot())"
    env = {"PYTHONPATH": str(ROOT), "PATH": os.defpath}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert "devices=()" in done.stdout, done.stderr
    assert "libnvidia-ml.so.1 cannot be loaded" in done.stdout


def test_case_02_without_a_driver_there_are_no_gpus_and_a_reason(host: Host, node: Node) -> None:
    host.set(init_error=9)
    with pytest.raises(NoSuchDevices, match=r"there are 0 \(.*Driver Not Loaded"):
        node.take()
    node.pool().grant_cpu("cpu0").release()


def test_case_03_random_deaths_give_no_device_twice(
    record_property: Callable[[str, object], None],
) -> None:
    figures = stress.run(processes=5, seconds=4)
    record_property(SAID, f"devices, 5 processes for 4 s: {asdict(figures)}")
    assert figures.grants > 10
    assert min(figures.killed.values()) > 0
    assert (figures.double, figures.leaked, figures.starved) == (0, 0, 0)


def test_case_04_nor_when_a_decision_takes_long() -> None:
    figures = stress.run(processes=6, seconds=2, kind="slow", kill=False)
    assert figures.grants > 10
    assert (figures.double, figures.leaked, figures.starved) == (0, 0, 0)


def test_case_04_a_pool_without_its_mutex_is_found_out() -> None:
    for _ in range(5):
        if stress.run(processes=6, seconds=2, kind="without_mutex", kill=False).double:
            return
    pytest.fail("nobody noticed that devices were given twice")


def test_case_05_a_killed_workers_job_is_adopted(node: Node) -> None:
    handle, plan = node.start("import time; time.sleep(600)")
    handle.detach()
    found = node.runtime.recover()
    assert [str(one.attempt) for one in found] == [str(plan.attempt)]
    with pytest.raises(DeviceBusy, match=f"held by {plan.attempt}"):
        node.take(8)
    found[0].remove()
    node.take(8).release()


def test_case_05_or_leaves_no_survivor_before_the_next_grant(node: Node) -> None:
    handle, _ = node.start(KEEPS, lease=2)
    daemon = int(first_line(handle))
    handle.detach()  # as the kernel does it when the worker is killed
    with node.take(8, timeout=10):
        assert gone(daemon)


def test_case_06_a_survivor_of_a_killed_keeper_keeps_its_gpu_busy(node: Node) -> None:
    handle, plan = node.start(KEEPS)
    daemon = int(first_line(handle))
    os.kill(node.keeper(plan).pid, signal.SIGKILL)
    wait_until(lambda: gone(node.keeper(plan).pid))
    assert not gone(daemon)
    with node.take(8, timeout=10):
        assert gone(daemon)


def test_case_06_a_survivor_that_has_shed_every_mark_is_seen_on_the_gpu(
    host: Host, node: Node
) -> None:
    shed = (
        "os.closerange(3, w); os.closerange(w + 1, 64); os.write(w, str(os.getpid()).encode()); "
        "os.execve(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(600)'], "
        "{})"
    )
    handle, plan = node.start(DAEMON.format(shed=shed))
    daemon = int(first_line(handle))
    device = int(plan.grant.devices[0][-12:], 16)
    host.process(device, daemon, 2048)
    os.kill(node.keeper(plan).pid, signal.SIGKILL)
    wait_until(lambda: gone(node.keeper(plan).pid))
    with pytest.raises(DeviceBusy, match=f"no job's: {daemon}"):
        node.take(8, timeout=0.3)
    os.kill(daemon, signal.SIGKILL)
    host.idle(device)
    node.take(8).release()


def test_case_08_a_holder_that_stands_still_holds(node: Node) -> None:
    holder = node.holder(8)
    holder.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(DeviceBusy, match="held by"):
            node.take(timeout=1.5)
        holder.send_signal(signal.SIGCONT)
        thread, found = in_thread(lambda: node.take(timeout=10))
        holder.communicate("")
        thread.join(10)
        assert len(found) == 1
        found[0].release()  # type: ignore[attr-defined]
    finally:
        holder.kill()


@pytest.mark.parametrize("ledger", ["sound", "unlocking"])
def test_case_09_what_a_living_child_has_open_is_held(node: Node, ledger: str) -> None:
    node.ledger = ledger
    held = node.take(8)
    child = subprocess.Popen(["sleep", "60"], pass_fds=held.grant.fds)
    held.release()
    try:
        if ledger == "unlocking":  # the mutant: found out
            node.take(8).release()
            return
        with pytest.raises(DeviceBusy):
            node.take()
    finally:
        child.kill()
        child.wait()
    node.take(8).release()


def test_case_09_a_pool_that_asks_for_the_taker_only_is_found_out(node: Node) -> None:
    holder = node.holder(8)
    holder.communicate("")
    node.take(8).release()
    node.ledger = "forgetful"
    handle, _ = node.start("import time; time.sleep(600)", 8)
    pid_of_nobody = stress_free_pid()
    _rewrite_pid(node, pid_of_nobody)
    node.take(8).release()  # the job lives
    assert handle.status() == "running"
    node.ledger = "sound"
    _rewrite_pid(node, pid_of_nobody)
    with pytest.raises(DeviceBusy):
        node.take()
    handle.remove()


def stress_free_pid() -> int:
    """Of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def _rewrite_pid(node: Node, pid: int) -> None:
    """As if another process had taken the lease, and was killed."""
    for path in (node.leases / "devices" / "leases").iterdir():
        content = json.loads(path.read_bytes())
        path.write_text(json.dumps({**content, "pid": pid}))


def waiting(node: Node) -> int:
    tickets = node.leases / "devices" / "tickets"
    return len(list(tickets.glob("[!.]*"))) if tickets.is_dir() else 0


def test_case_10_two_gangs_of_five_do_not_deadlock(node: Node) -> None:
    first = in_thread(lambda: node.take(5, timeout=20))
    second = in_thread(lambda: node.take(5, timeout=20))
    wait_until(lambda: first[1] or second[1], what="one gang is there")
    got, other = (first, second) if first[1] else (second, first)
    wait_until(lambda: waiting(node) == 1, what="the other waits")
    assert not other[1], "8 devices were enough for two gangs of 5"
    got[1][0].release()  # type: ignore[attr-defined]
    other[0].join(10)
    assert len(other[1]) == 1
    other[1][0].release()  # type: ignore[attr-defined]


def gang_against_a_stream(node: Node, within: float) -> float | None:
    """Seconds until a gang of 8 is served while others take one device again and again."""
    stop = threading.Event()

    def stream() -> None:
        while not stop.is_set():
            try:
                with node.take(timeout=20):
                    time.sleep(0.02)
            except DeviceBusy:
                pass

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(10)]
    for thread in threads:
        thread.start()
    if node.ledger == "sound":
        wait_until(lambda: waiting(node) > 1, what="the stream waits for devices")
    begun = time.monotonic()
    try:
        with node.take(8, timeout=within):
            return time.monotonic() - begun
    except DeviceBusy:
        return None
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_case_10_a_gang_of_eight_is_served_against_a_stream(node: Node) -> None:
    node.inventory = StaticInventory(NvmlInventory().snapshot().devices)
    assert gang_against_a_stream(node, within=15) is not None


def test_case_10_without_tickets_it_would_starve(node: Node) -> None:
    node.inventory = StaticInventory(NvmlInventory().snapshot().devices)
    node.ledger = "without_tickets"
    assert gang_against_a_stream(node, within=1.5) is None


def test_case_11_shared_memory_is_promised_once(host: Host, node: Node) -> None:
    host.gpus = 1
    host.write()
    node.rules = Rules(max_jobs=4)
    third = 30 * 1024
    with node.take(share=0.25, memory_mb=third), node.take(share=0.25, memory_mb=third) as second:
        with pytest.raises(DeviceBusy, match="MiB are free"):
            node.take(share=0.25, memory_mb=third)
        with pytest.raises(DeviceBusy, match="held by"):
            node.take()
        second.release()
        node.take(share=0.25, memory_mb=third).release()


def test_case_11_foreign_memory_is_subtracted(host: Host, node: Node) -> None:
    host.gpus = 1
    host.process(0, 4242, 20 * 1024)
    node.rules = Rules(max_jobs=4)
    with pytest.raises(DeviceBusy, match="no job's: 4242"):
        node.take()
    with node.take(share=0.25, memory_mb=30 * 1024):
        assert node.pool().state().devices[0].free_mb == 81920 - 600 - 50 * 1024
        with pytest.raises(DeviceBusy, match="MiB are free"):
            node.take(share=0.25, memory_mb=30 * 1024)
    host.process(0, 17, 61 * 1024 - 400, kind="graphics")
    with pytest.raises(DeviceBusy, match="MiB are free"):
        node.take(share=0.25, memory_mb=1024)


def test_a_lease_that_cannot_be_read_is_one_all_the_same(node: Node) -> None:
    """Of another version, or cut off by a full disk: its device is held while anybody holds it."""
    with node.take(only=frozenset({uuid(0)})):
        (path,) = (node.leases / "devices" / "leases").iterdir()
        written = path.read_text()
        for other in (written[:-1] + ', "of_a_later_version": 1}', ""):
            path.write_text(other)
            with pytest.raises(DeviceBusy, match="held by"):
                node.take(only=frozenset({uuid(0)}))
    node.take(8).release()


def test_a_book_that_cannot_be_written_loses_no_lease(node: Node) -> None:
    node.take().release()
    book = node.leases / "devices" / "book.json"
    book.unlink()
    book.mkdir()
    node.take(8).release()
    node.take(8).release()


def test_what_a_death_in_a_decision_leaves_is_tidied_up(node: Node) -> None:
    node.take().release()
    place = node.leases / "devices"
    for name in ("leases/.GPU-0~a", "tickets/.1~a"):
        (place / name).touch()
    node.pool().reap()
    assert [*(place / "leases").iterdir(), *(place / "tickets").iterdir()] == []
