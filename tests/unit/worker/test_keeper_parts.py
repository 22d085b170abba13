"""The keeper's parts that decide or count, without processes."""

from __future__ import annotations

import math
import os
import resource
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from worker.devices.leases import LeaseFile, held, read
from worker.keeper import lock, procfs, protocol
from worker.keeper.attachment import Attachment
from worker.keeper.cpus import affinity
from worker.keeper.spool import Spool
from worker.keeper.timers import Timers
from worker.keeper.verdict import Usage, verdict
from worker.keeper.watch import Watch
from worker.keeper.watchdog import Rounds, Watchdog

pytestmark = pytest.mark.unit


class TestAttachment:
    def test_output_of_an_engine_that_stays_away_is_given_up_and_nothing_is_due_then(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        spools = [Spool(), Spool()]
        output = Attachment(str(tmp_path / "none.sock"), "/containers/x", spools, Watch())
        output.hang_up()
        output.finish()
        for _ in range(1000):
            due = output.next_due(now)
            if due == math.inf:
                break
            now = max(now, due)
            output.drain()
        assert output.over
        assert output.next_due(now) == math.inf, "a keeper would spin until it is told to end"

    def test_what_is_held_back_for_a_moment_is_due_also_when_that_is_past(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The clock goes on between the two looks of a round: nobody would read again."""
        now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            asked = threading.Thread(target=lambda: engine.append(listener.accept()[0]))
            engine: list[socket.socket] = []
            asked.start()
            spools, watch = [Spool(), Spool()], Watch()
            output = Attachment(str(tmp_path / "s"), "/containers/x", spools, watch)
            answer = threading.Thread(
                target=lambda: (asked.join(), engine[0].sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n"))
            )
            answer.start()
            output.attach()
            answer.join()
            for number in range(1, 3):
                engine[0].sendall(b"\1\0\0\0\0\0\0\1x")
                output.declare()
                watch.wait(5)
                assert spools[0].end == number
            output.declare()
            due = output.next_due(now)
            assert now < due < now + 0.1, "a flood gathers"
            now = due + 0.0001
            assert output.next_due(now) <= now
            output.declare()
            assert output.next_due(now) == math.inf, "it is waited for"
            engine[0].sendall(b"\1\0\0\0\0\0\0\1x")
            watch.wait(5)
            assert spools[0].end == 3
            engine[0].close()
            watch.close()


class TestSpool:
    def test_keeps_what_is_not_acknowledged(self) -> None:
        spool = Spool(capacity=10)
        spool.append(b"abcdefgh")
        assert (spool.room, spool.next()) == (2, b"abcdefgh")
        spool.sent = 8
        assert spool.next() == b""
        spool.ack(3)
        assert (spool.acked, spool.end, spool.room) == (3, 8, 5)
        spool.rewind()
        assert spool.next() == b"defgh"

    @pytest.mark.parametrize(("offset", "acked"), [(-5, 2), (0, 2), (2, 2), (99, 4)])
    def test_an_acknowledgement_stays_within_the_window(self, offset: int, acked: int) -> None:
        spool = Spool()
        spool.append(b"abcd")
        spool.ack(2)
        spool.ack(offset)
        assert spool.acked == acked
        assert spool.end == 4

    def test_an_acknowledgement_ahead_of_a_resend_moves_it(self) -> None:
        spool = Spool()
        spool.append(b"abcd")
        spool.ack(3)
        assert (spool.sent, spool.next()) == (3, b"d")

    def test_pieces_are_bounded(self) -> None:
        spool = Spool()
        spool.append(bytes(protocol.CHUNK_BYTES + 1))
        assert len(spool.next()) == protocol.CHUNK_BYTES


class TestTimers:
    def timers(self) -> Timers:
        return Timers(deadline=10, abandon_after=5, now=0)

    def test_the_deadline_moves_with_each_beat(self) -> None:
        timers = self.timers()
        assert (timers.expired(9.9), timers.expired(10)) == (False, True)
        timers.beat(20, now=9)
        assert (timers.expired(10), timers.expired(20)) == (False, True)

    def test_nobody_is_missed_while_attached(self) -> None:
        assert not self.timers().abandoned(1e9)

    def test_abandoned_counts_from_the_last_sign_of_life(self) -> None:
        timers = self.timers()
        timers.lost(6)
        timers.lost(7)  # said again: it is gone since 6
        assert (timers.abandoned(10.9), timers.abandoned(11)) == (False, True)
        timers.attached()
        assert not timers.abandoned(100)

    def test_not_before_the_time_that_the_last_supervisor_gave_it(self) -> None:
        timers = self.timers()
        timers.beat(300, now=2)
        timers.lost(3)
        assert (timers.abandoned(299), timers.abandoned(300)) == (False, True)

    def test_the_end_starts_the_wait_for_a_late_supervisor(self) -> None:
        timers = self.timers()
        timers.lost(0)
        timers.ended(6)
        assert (timers.abandoned(10.9), timers.abandoned(11)) == (False, True)

    def test_next_due_is_the_first_that_is_ahead(self) -> None:
        timers = self.timers()
        assert timers.next_due(0, running=True) == 10
        assert timers.next_due(10, running=True) == math.inf
        assert timers.next_due(0, running=False) == math.inf
        timers.stop_at = 4
        timers.lost(0)
        assert timers.next_due(0, running=True) == 4
        assert timers.next_due(0, running=False) == 10


class TestVerdict:
    def end(self, status: int | None, **changes: object) -> protocol.Exit:
        given: dict[str, object] = {"cause": None, "error": "", "memory_mb": 0}
        peak = float(str(changes.pop("peak_kib", 0)))
        usage = Usage()
        usage.add(resource.struct_rusage([0.25, 0.5, 0.0] + [0.0] * 13))
        usage.add(resource.struct_rusage([0.75, 0.0, peak] + [0.0] * 13))
        return verdict(status=status, usage=usage, wall_seconds=2.0, **(given | changes))  # type: ignore[arg-type] # a table of keyword arguments

    def test_code_and_signal_exclude_each_other(self) -> None:
        assert (self.end(3 << 8)["code"], self.end(3 << 8)["signal"]) == (3, None)
        assert (self.end(9)["code"], self.end(9)["signal"]) == (None, 9)
        assert self.end(0)["cpu_seconds"] == 1.5

    def test_what_was_never_executed_has_no_code(self) -> None:
        end = self.end(127 << 8, error="cannot execute x")
        assert (end["code"], end["signal"], end["error"]) == (None, None, "cannot execute x")

    @pytest.mark.parametrize(
        ("status", "peak_mib", "cause", "oom"),
        [
            (9, 50, "memory", True),
            (1 << 8, 100, None, True),
            (9, 100, None, True),
            (0, 100, None, False),  # it did well, whatever it took
            (1 << 8, 99, None, False),
            (9, 99, "requested", False),
        ],
    )
    def test_out_of_memory(self, status: int, peak_mib: int, cause: str | None, oom: bool) -> None:
        end = self.end(status, cause=cause, memory_mb=100, peak_kib=peak_mib * 1024)
        assert end["oom"] is oom


@pytest.mark.parametrize(
    ("slot", "cores", "cpus"),
    [
        ("cpu0", 0, None),
        ("cpu0", 4, None),
        ("cpu0", 1, {2}),
        ("cpu1", 0.5, {3}),
        ("cpu1", 2, {4, 5}),
        ("cpu1", 3, {5, 2, 3}),
        ("gpu", 1.5, {2, 3}),
    ],
)
def test_affinity_spreads_slots(slot: str, cores: float, cpus: set[int] | None) -> None:
    assert affinity(slot, cores, [2, 3, 4, 5]) == cpus


class TestWatchdog:
    def watchdog(self, directory: Path, *, pids: int = 0) -> Watchdog:
        return Watchdog(memory_mb=0, pids=pids, output_mb=1, directories=[str(directory)])

    def test_measuring_goes_in_steps(self, tmp_path: Path) -> None:
        for i in range(600):
            (tmp_path / str(i)).touch()
        dog = self.watchdog(tmp_path)
        steps = [dog.output(list) for _ in range(3)]
        assert steps == [(False, None), (False, None), (True, None)]

    def test_threads_count_as_pids(self, tmp_path: Path) -> None:
        one = procfs.process(os.getpid())
        assert one is not None
        one.threads = 3
        dog = self.watchdog(tmp_path, pids=5)
        assert dog.processes([one]) is None
        assert dog.near
        assert dog.processes([one, one]) == "pids"

    @pytest.mark.parametrize(("spent", "pause"), [(0, 2.0), (0.25, 5.0), (100, 10.0)])
    def test_measuring_takes_a_small_share_unless_that_is_too_late(
        self, tmp_path: Path, spent: float, pause: float
    ) -> None:
        (tmp_path / "file").touch()
        rounds = Rounds(self.watchdog(tmp_path), now=0)
        for i in range(300):
            (tmp_path / str(i)).touch()
        assert rounds.measure(2, list) is None
        assert rounds.measuring
        assert rounds.measure(2 + spent, list) is None
        assert not rounds.measuring
        assert rounds.next_due() == 2 + spent + pause

    def test_the_last_measure_comes_after_the_end(self, tmp_path: Path) -> None:
        rounds = Rounds(self.watchdog(tmp_path), now=0)
        assert rounds.measure(1, list) is None
        assert not rounds.last(1)
        (tmp_path / "late").write_bytes(bytes(2 << 20))
        assert rounds.measure(1, list) == "output"
        assert rounds.last(1)


def test_a_process_name_may_look_like_fields() -> None:
    fields = ["S", "1", "7"] + ["0"] * 14 + ["4", "0", "99", "0", "2"]
    entry = procfs.Process(42, b"42 (a) S (b) " + " ".join(fields).encode())
    assert (entry.state, entry.parent, entry.group) == ("S", 1, 7)
    assert (entry.threads, entry.start) == (4, 99)
    assert not entry.ends
    fields[6] = str(0x40000C)  # PF_EXITING among others
    assert procfs.Process(42, b"42 (a) " + " ".join(fields).encode()).ends
    assert entry.rss_bytes == 2 * resource.getpagesize()


def test_frames_are_what_was_put_in() -> None:
    frame = memoryview(protocol.data_frame(1, 1 << 40, b"abc"))
    assert protocol.parse_data(frame) == (1, 1 << 40, b"abc")
    assert protocol.parse_ack(protocol.ack_frame(0, 5)) == (0, 5)
    assert protocol.parse_beat(protocol.beat_frame(1.25)) == 1.25
    assert protocol.parse_state(memoryview(protocol.state_frame(True))) is True
    with pytest.raises(struct.error):
        protocol.parse_ack(b"A")


class TestLeases:
    def test_one_holder(self, tmp_path: Path) -> None:
        lease = LeaseFile.acquire(tmp_path, "cpu0", {"slot": "cpu0"})
        assert lease is not None
        assert LeaseFile.acquire(tmp_path, "cpu0", {}) is None
        assert held(lease.path)
        assert read(lease.path) == {"slot": "cpu0"}
        lease.close()
        lease.close()
        assert not held(lease.path)

    def test_ends_with_its_last_copy(self, tmp_path: Path) -> None:
        lease = LeaseFile.acquire(tmp_path, "cpu0", {})
        assert lease is not None
        copy = os.dup(lease.fd)
        lease.close()
        assert held(lease.path)
        os.close(copy)
        assert not held(lease.path)

    @pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 300])
    def test_names_are_file_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="lease name"):
            LeaseFile.acquire(tmp_path, name, {})

    def test_a_planted_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "cpu0.lease").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            LeaseFile.acquire(tmp_path, "cpu0", {})

    def test_never_held_is_free(self, tmp_path: Path) -> None:
        assert not held(tmp_path / "none.lease")
        assert read(tmp_path / "none.lease") == {}


class TestLock:
    def test_is_alive_while_taken(self, tmp_path: Path) -> None:
        assert not lock.alive(tmp_path)
        taken = lock.take(tmp_path)
        assert taken is not None
        assert lock.alive(tmp_path)
        assert lock.take(tmp_path, patience=0) is None
        os.close(taken)
        assert not lock.alive(tmp_path)

    def test_a_broken_record_is_none(self, tmp_path: Path) -> None:
        assert lock.read(tmp_path) is None
        (tmp_path / lock.LOCK_NAME).write_text('{"pid": 1')
        assert lock.read(tmp_path) is None
