"""What every runtime must do. A new one adds a harness and passes this file as it stands."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import KeeperError, RuntimeUnavailable
from tests.support.runtimes import (
    ABANDON_AFTER,
    HARNESSES,
    PYTHON,
    Harness,
    Heard,
    Places,
    Program,
    hear,
    soon,
)
from tests.support.waiting import wait_until
from worker.plan import StopCause
from worker.runtimes.base import Beside, Chunk, Handle, Status, Stream
from worker.runtimes.fake_script import Await, Die, Exit, Gate, Script, Write

pytestmark = pytest.mark.contract

IGNORES_TERM = Program(
    source="import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n"
    "while True: signal.pause()",
    script=Script(steps=(Write(data=b"up\n"), Await()), on_signal={signal.SIGTERM: b""}),
)
WAITS = Program(
    source="import signal; print('up', flush=True); signal.pause()",
    script=Script(steps=(Write(data=b"up\n"), Await())),
)
TICKS = Program(
    source="import time\nwhile True: print('tick', flush=True); time.sleep(0.01)",
    script=Script(steps=(Write(data=b"tick\n", times=10**9),)),
)
MEBIBYTE = 1 << 20


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    made = Places(tmp_path)
    yield made
    made.release()


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.podman if name == "podman" else ())
        for name in sorted(HARNESSES)
    ]
)
def harness(request: pytest.FixtureRequest, places: Places) -> Iterator[Harness]:
    """A runtime; afterwards nothing of it may be left."""
    made = HARNESSES[request.param](places)
    capabilities = made.runtime.capabilities()
    if not capabilities.available:  # an engine that was started, and does not serve
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(capabilities.reason)
    yield made
    made.close()
    places.release()
    assert places.left_behind() == []
    wait_until(lambda: not places.leases_held(), timeout=5, what="leases are free")


@pytest.fixture
def pausing(harness: Harness) -> Harness:
    """A runtime that can pause; the others have a test of their own."""
    if not harness.runtime.capabilities().pause:
        pytest.skip("it cannot pause on this host, and says so")
    return harness


def up(heard: Heard) -> bool:
    return b"up\n" in heard.out


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code_is_the_programs(harness: Harness, code: int) -> None:
    program = Program(source=f"raise SystemExit({code})", script=Script(steps=(Exit(code=code),)))
    handle = harness.runtime.start(harness.plan(program), soon())
    end = hear(handle).exit
    assert end is not None
    assert (end.code, end.signal, end.cause, end.oom, end.error) == (code, None, None, False, "")
    assert end.wall_seconds > 0
    assert handle.status() is Status.EXITED
    assert handle.read(0) == end
    assert handle.read(0) == end
    handle.remove()


def test_death_by_a_signal_is_no_exit_code(harness: Harness) -> None:
    program = Program(
        source="import os; os.kill(os.getpid(), 11)", script=Script(steps=(Die(signal=11),))
    )
    handle = harness.runtime.start(harness.plan(program), soon())
    end = hear(handle).exit
    assert end is not None
    assert (end.code, end.signal, end.cause) == (None, 11, None)
    handle.remove()


def test_streams_are_separate_and_complete(harness: Harness) -> None:
    program = Program(
        source="import sys\n"
        "for i in range(1000): sys.stdout.write(f'o{i}\\n'); sys.stderr.write(f'e{i}\\n')",
        script=Script(
            steps=(
                Write(data=b"".join(b"o%d\n" % i for i in range(1000))),
                Write(data=b"".join(b"e%d\n" % i for i in range(1000)), stream=Stream.STDERR),
            )
        ),
    )
    handle = harness.runtime.start(harness.plan(program), soon())
    heard = hear(handle)
    assert heard.out == b"".join(b"o%d\n" % i for i in range(1000))
    assert heard.err == b"".join(b"e%d\n" % i for i in range(1000))
    assert heard.first == {Stream.STDOUT: 0, Stream.STDERR: 0}
    handle.remove()


def test_ten_megabytes_without_a_newline(harness: Harness) -> None:
    program = Program(
        source="import os\nfor i in range(160): os.write(1, bytes([i]) * 65536)",
        script=Script(steps=tuple(Write(data=bytes([i]) * 65536) for i in range(160))),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handle = harness.runtime.start(harness.plan(program), soon())
    seen = 0
    while isinstance(chunk := handle.read(10), Chunk):
        assert len(chunk.data) <= 65536
        assert chunk.offset == seen
        for at in range(0, len(chunk.data), 4096):
            assert chunk.data[at] == (seen + at) // 65536
        seen += len(chunk.data)
        handle.ack(chunk.stream, seen)
    assert seen == 160 * 65536
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 8 * 1024, "KiB: it was kept, not passed on"
    handle.remove()


def test_a_job_that_nobody_listens_to_waits(harness: Harness) -> None:
    program = Program(
        source="import os\n"
        "for _ in range(64): os.write(1, b'x' * 65536)\n"
        "open(os.environ['CYXWIZ_OUTPUT'] + '/written', 'w').close()",
        script=Script(steps=(Write(data=b"x" * 65536, times=64),)),
    )
    plan = harness.plan(program)
    written = plan.output / "written"
    handle = harness.runtime.start(plan, soon())
    got = 0
    while got < MEBIBYTE:  # the spool's worth comes without an acknowledgement
        chunk = handle.read(10)
        assert isinstance(chunk, Chunk)
        got += len(chunk.data)
    assert handle.read(0.3) is None, "more than the spool holds came without an acknowledgement"
    assert not written.exists()
    assert handle.status() is Status.RUNNING
    handle.ack(Stream.STDOUT, got)
    rest = hear(handle)
    assert got + len(rest.out) == 64 * 65536
    assert rest.exit is not None
    assert rest.exit.code == 0
    handle.remove()


def test_stop_lets_a_job_end_by_itself(harness: Harness) -> None:
    program = Program(
        # no print in the handler: it may run inside the one below, and print cannot nest
        source="import os, signal, sys\n"
        "signal.signal(15, lambda *_: (os.write(1, b'saved\\n'), sys.exit(0)))\n"
        "print('up', flush=True)\nsignal.pause()",
        script=Script(steps=(Write(data=b"up\n"), Await())),
    )
    handle = harness.runtime.start(harness.plan(program), soon())
    hear(handle, until=up)
    began = time.monotonic()
    handle.stop(20)
    end = hear(handle).exit
    assert end is not None
    assert end.cause is StopCause.REQUESTED
    assert end.code == 0 or end.signal == signal.SIGTERM
    assert time.monotonic() - began < 10
    handle.remove()


def test_stop_kills_what_ignores_it(harness: Harness) -> None:
    handle = harness.runtime.start(harness.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    began = time.monotonic()
    handle.stop(0.3)
    end = hear(handle).exit
    assert end is not None
    assert (end.code, end.signal, end.cause) == (None, signal.SIGKILL, StopCause.REQUESTED)
    assert time.monotonic() - began >= 0.3
    handle.remove()


def test_signal_reaches_the_program(harness: Harness) -> None:
    program = Program(
        # no print in the handler: see above
        source="import os, signal\nsignal.signal(10, lambda *_: os.write(1, b'saved\\n'))\n"
        "print('up', flush=True)\nwhile True: signal.pause()",
        script=Script(steps=(Write(data=b"up\n"), Await()), on_signal={signal.SIGUSR1: b"saved\n"}),
    )
    handle = harness.runtime.start(harness.plan(program), soon())
    hear(handle, until=up)
    handle.signal(signal.SIGUSR1)
    hear(handle, until=lambda heard: b"saved\n" in heard.out)
    assert handle.status() is Status.RUNNING
    handle.remove()


def test_pause_and_resume(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(TICKS), soon())
    hear(handle, until=lambda heard: b"tick" in heard.out)
    handle.pause()
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    while handle.read(0.1) is not None:  # what was written before it stopped
        pass
    assert handle.read(0.3) is None
    handle.resume()
    wait_until(lambda: handle.status() is Status.RUNNING, timeout=5, what="resumed")
    handle.fence()
    handle.remove()


def test_a_passed_deadline_pauses_until_the_next_beat(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(WAITS), soon())
    hear(handle, until=up)
    handle.beat(soon(0.3))
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused by the deadline")
    handle.beat(soon())
    wait_until(lambda: handle.status() is Status.RUNNING, timeout=5, what="resumed by the beat")
    handle.remove()


def test_a_beat_does_not_undo_a_users_pause(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(WAITS), soon())
    hear(handle, until=up)
    handle.pause()
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    handle.beat(time.monotonic() - 1)  # both reasons now
    handle.beat(soon())
    assert handle.read(0.2) is None
    assert handle.status() is Status.PAUSED
    handle.resume()
    wait_until(lambda: handle.status() is Status.RUNNING, timeout=5, what="resumed")
    handle.remove()


def test_a_stop_past_the_deadline_gives_no_grace(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    handle.beat(time.monotonic() - 1)
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    handle.stop(60)
    end = hear(handle, timeout=10).exit
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.REQUESTED)
    handle.remove()


def test_what_cannot_be_paused_ends_at_its_deadline(harness: Harness) -> None:
    if harness.runtime.capabilities().pause:
        pytest.skip("it can be paused: see the tests above")
    handle = harness.runtime.start(harness.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    handle.pause()  # does nothing, and says nothing else
    assert handle.read(0.3) is None
    assert handle.status() is Status.RUNNING
    handle.beat(soon(0.3))
    end = hear(handle, timeout=10).exit
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.DEADLINE)
    handle.remove()


def test_fence_kills_at_once(harness: Harness) -> None:
    handle = harness.runtime.start(harness.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    handle.fence()
    end = hear(handle, timeout=10).exit
    assert end is not None
    assert (end.code, end.signal, end.cause) == (None, signal.SIGKILL, StopCause.FENCED)
    handle.remove()


def test_a_successor_goes_on_at_the_first_byte_not_acknowledged(harness: Harness) -> None:
    whole = b"".join(b"%06d\n" % i for i in range(100_000))
    gate = Gate()
    program = Program(
        source="import sys\nsys.stdout.write(''.join('%06d\\n' % i for i in range(100000)))",
        script=Script(steps=(Write(data=whole), Await(gate=gate))),
    )
    gate.open()
    first = harness.runtime.start(harness.plan(program), soon())
    heard = hear(first, until=lambda heard: len(heard.out) > 100_000, ack=False)
    assert heard.out == whole[: len(heard.out)]
    first.ack(Stream.STDOUT, 70_000)
    first.detach()
    first.detach()
    with pytest.raises(KeeperError, match="detached"):
        first.read(1)
    assert harness.successor().recover("another-slot") == [], "it would be taken from its own"
    [second] = harness.successor().recover()
    assert second.attempt == first.attempt
    rest = hear(second)
    assert rest.first[Stream.STDOUT] <= 70_000
    assert whole[: rest.first[Stream.STDOUT]] + rest.out == whole
    assert rest.exit is not None
    assert rest.exit.code == 0
    second.remove()


def test_an_ended_attempt_waits_for_its_successor(harness: Harness) -> None:
    program = Program(
        source="print('bye'); raise SystemExit(4)",
        script=Script(steps=(Write(data=b"bye\n"), Exit(code=4))),
    )
    first = harness.runtime.start(harness.plan(program), soon())
    assert hear(first, ack=False).out == b"bye\n"
    first.detach()
    [second] = harness.successor().recover()
    heard = hear(second)
    assert heard.out == b"bye\n"
    assert heard.exit is not None
    assert heard.exit.code == 4
    second.remove()


def test_the_newest_supervisor_is_the_one_that_counts(harness: Harness) -> None:
    old = harness.runtime.start(harness.plan(WAITS), soon())
    [new] = harness.successor().recover()
    with pytest.raises(KeeperError):
        hear(old, until=lambda _: False)
    hear(new, until=up)
    new.remove()


def test_abandoned_by_everybody(harness: Harness, places: Places) -> None:
    handle = harness.runtime.start(harness.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    places.release()
    began = time.monotonic()
    handle.beat(soon(ABANDON_AFTER))  # until its deadline a keeper expects somebody
    handle.detach()
    successor = harness.successor()
    assert places.leases_held() != []
    wait_until(lambda: not places.leases_held(), timeout=20, what="the grant is given back")
    # once to be ended, once more so that a late supervisor could have asked how
    assert time.monotonic() - began >= 2 * ABANDON_AFTER
    assert successor.recover() == []
    for path in places.left_behind():
        _settle(path)


def test_abandoned_says_so_to_a_late_supervisor(harness: Harness) -> None:
    handle = harness.runtime.start(harness.plan(TICKS), soon())
    handle.beat(soon(ABANDON_AFTER))
    handle.detach()
    successor = harness.successor()
    late = None
    ended = time.monotonic() + 1.5 * ABANDON_AFTER
    wait_until(lambda: time.monotonic() > ended, timeout=10, what="it was abandoned")
    [late] = successor.recover()
    end = hear(late).exit
    assert end is not None
    ended_by_deadline = not harness.runtime.capabilities().pause  # which came just before
    assert end.cause in (StopCause.ABANDONED, *([StopCause.DEADLINE] * ended_by_deadline))
    late.remove()


def test_a_program_that_cannot_be_executed(harness: Harness) -> None:
    program = Program(
        source="",
        argv=("/nowhere/at/all",),
        script=Script(exec_error="cannot execute /nowhere/at/all: No such file or directory"),
    )
    handle = harness.runtime.start(harness.plan(program), soon())
    end = hear(handle).exit
    assert end is not None
    assert (end.code, end.signal) == (None, None)
    assert "/nowhere/at/all" in end.error
    assert "No such file" in end.error
    handle.remove()


def test_verbs_on_an_ended_attempt_do_nothing(harness: Harness) -> None:
    program = Program(source="", script=Script())
    handle = harness.runtime.start(harness.plan(program), soon())
    hear(handle)
    handle.pause()
    handle.resume()
    handle.signal(signal.SIGUSR1)
    handle.beat(soon())
    handle.stop(1)
    handle.fence()
    handle.ack(Stream.STDOUT, 10**9)
    assert handle.status() is Status.EXITED
    handle.remove()
    handle.remove()


def test_remove_ends_a_running_attempt_and_gives_back_the_grant(
    harness: Harness, places: Places
) -> None:
    plan = harness.plan(IGNORES_TERM)
    handle = harness.runtime.start(plan, soon())
    places.release()
    hear(handle, until=up)
    assert places.leases_held() != []
    handle.remove()
    assert places.leases_held() == []
    assert not plan.state.exists()
    assert not plan.scratch.exists()
    handle.remove()
    assert harness.runtime.recover() == []


def test_the_same_attempt_twice_is_refused(harness: Harness) -> None:
    plan = harness.plan(WAITS)
    handle = harness.runtime.start(plan, soon())
    with pytest.raises(RuntimeUnavailable, match=str(plan.attempt)):
        harness.runtime.start(plan, soon())
    hear(handle, until=up)
    handle.remove()


def test_exec_is_declared_or_refused(harness: Harness) -> None:
    plan = harness.plan(WAITS)
    handle = harness.runtime.start(plan, soon())
    if not harness.runtime.capabilities().exec:
        with pytest.raises(KeeperError, match="exec"):
            handle.exec(["echo", "there"])
        handle.remove()
        return
    hear(handle, until=up)
    said = beside(handle, "echo there; echo $CYXWIZ_OUTPUT >&2; exit 3")
    assert said == (3, b"there\n", f"{plan.env['CYXWIZ_OUTPUT']}\n".encode())
    assert beside(handle, "kill -9 $$")[0] == 137
    with contextlib.suppress(KeeperError):  # an engine may know no better than 126 or 127
        assert heard_beside(handle.exec(["/nowhere/at/all"]))[0] in (126, 127)
    python = PYTHON if harness.runtime.capabilities().name == "native" else "/usr/local/bin/python3"
    hangs = [python, "-S", "-c", HANGS]
    hanging = handle.exec(hangs)
    pid = int(first_output(hanging))
    assert beside(handle, f"test -d /proc/{pid}")[0] == 0
    hanging.close()
    hanging.close()
    wait_until(lambda: beside(handle, f"test -d /proc/{pid}")[0] == 1, what="its end")
    assert handle.status() is Status.RUNNING
    last = handle.exec(hangs)
    first_output(last)
    handle.fence()
    hear(handle)
    with contextlib.suppress(KeeperError):
        assert heard_beside(last)[0] == 137
    last.close()
    handle.remove()


HANGS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def first_output(command: Beside) -> bytes:
    while not isinstance(found := command.read(1), tuple):
        assert found is None, found
    return found[1]


def heard_beside(command: Beside) -> tuple[int, bytes, bytes]:
    """Exit code, stdout, stderr. Raises KeeperError."""
    said = {Stream.STDOUT: b"", Stream.STDERR: b""}
    until = soon(30)
    while not isinstance(found := command.read(1), int):
        assert time.monotonic() < until, said
        if found is not None:
            said[found[0]] += found[1]
    command.close()
    return found, said[Stream.STDOUT], said[Stream.STDERR]


def beside(handle: Handle, script: str) -> tuple[int, bytes, bytes]:
    return heard_beside(handle.exec(["sh", "-c", script]))


def _settle(path: Path) -> None:
    from worker.keeper.settle import remove_tree, settle

    if path.parent.name == "attempts":
        settle(path)
    remove_tree(path)
