"""What every runtime must do: start, streams, signals, end. A new one adds a harness and passes
this directory as it stands."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from tasks.errors import RuntimeUnavailable
from tests.support.programs import IGNORES_TERM, MEBIBYTE, WAITS, up
from tests.support.runtimes import Harness, Places, Program, hear, soon
from worker.plan import StopCause
from worker.runtimes.base import Chunk, Status, Stream
from worker.runtimes.fake_script import Await, Die, Exit, Script, Write

pytestmark = pytest.mark.contract


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


def test_fence_kills_at_once(harness: Harness) -> None:
    handle = harness.runtime.start(harness.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    handle.fence()
    end = hear(handle, timeout=10).exit
    assert end is not None
    assert (end.code, end.signal, end.cause) == (None, signal.SIGKILL, StopCause.FENCED)
    handle.remove()


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
