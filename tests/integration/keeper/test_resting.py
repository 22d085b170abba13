"""A keeper that keeps one attempt after the other: nothing of one may be left for the next."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtimes import PYTHON, Places, hear, soon
from tests.support.waiting import wait_until
from worker.keeper import lock, procfs
from worker.keeper.zygote import Zygote
from worker.plan import ExitStatus, LaunchPlan, Limits
from worker.runtimes.base import Handle
from worker.runtimes.native import NativeRuntime

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers need Linux"),
]

GREEDY = "block = b'x' * (96 << 20); sum(range(10 ** 6)); print('greedy')"


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    with Zygote() as made:
        yield made


@pytest.fixture
def runtime(places: Places, zygote: Zygote) -> Iterator[NativeRuntime]:
    made = NativeRuntime(state_root=places.state, abandon_after=30, zygote=zygote)
    yield made
    for handle in made.recover():
        handle.remove()


def start(runtime: NativeRuntime, places: Places, source: str) -> tuple[Handle, LaunchPlan, int]:
    """The attempt, and the process id of its keeper."""
    made = places.plan((PYTHON, "-S", "-c", textwrap.dedent(source)), Limits())
    handle = runtime.start(made, soon())
    places.release()
    record = lock.read(made.state)
    assert record is not None
    return handle, made, record.pid


def run(runtime: NativeRuntime, places: Places, source: str) -> tuple[int, ExitStatus, str]:
    """The process id of its keeper, how it ended, and what it printed."""
    handle, _, keeper = start(runtime, places, source)
    heard = hear(handle)
    handle.remove()
    assert heard.exit is not None
    return keeper, heard.exit, heard.out.decode()


def gone(pid: int) -> bool:
    entry = procfs.process(pid)
    return entry is None or entry.dead


def descriptors(pid: int) -> list[str]:
    """What each open descriptor is, without the numbers of sockets and pipes."""
    places = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return sorted(place.partition(":[")[0] for place in places)


def test_one_keeper_keeps_one_attempt_after_the_other(
    places: Places, runtime: NativeRuntime
) -> None:
    keeper, greedy, _ = run(runtime, places, GREEDY)
    held = places.leases_held()
    at_rest = descriptors(keeper)
    again, frugal, said = run(runtime, places, "print('frugal')")
    assert again == keeper
    assert said == "frugal\n"
    assert (held, places.leases_held(), places.left_behind()) == ([], [], [])
    assert greedy.max_rss_mb > 96 > 2 * frugal.max_rss_mb
    assert greedy.cpu_seconds > frugal.cpu_seconds
    # it holds what it held before: its connection, and no more
    assert descriptors(keeper) == at_rest
    assert not any("lease" in one or "keeper" in one for one in at_rest)


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.write(1, b'x' * 5_000_000)",  # more than is kept, and nobody reads it
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import time; time.sleep(600)",
    ],
)
def test_whatever_is_removed_the_next_is_none_the_worse(
    places: Places, runtime: NativeRuntime, source: str
) -> None:
    handle, _, keeper = start(runtime, places, source)
    handle.remove()
    again, ended, said = run(runtime, places, "print('next')")
    assert (again, ended.code, ended.cause, said) == (keeper, 0, None, "next\n")
    assert places.left_behind() == []


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/no/such/program", "No such file or directory"),
        ("no-such-program", "No such file or directory"),
        ("{here}/text", "Permission denied"),
        ("text", "Permission denied"),
        ("{here}/noise", "Exec format error"),
        ("{here}", "Permission denied"),
    ],
)
def test_what_cannot_be_executed_is_told_of_that_attempt_alone(
    places: Places, runtime: NativeRuntime, tmp_path: Path, program: str, why: str
) -> None:
    (tmp_path / "text").touch()
    (tmp_path / "noise").write_bytes(b"\0noise")
    (tmp_path / "noise").chmod(0o755)
    places.env["PATH"] = f"/nowhere:{tmp_path}:/bin"
    run(runtime, places, "pass")
    program = program.format(here=tmp_path)
    handle = runtime.start(places.plan((program,), Limits()), soon())
    places.release()
    failed = hear(handle).exit
    handle.remove()
    assert failed is not None
    assert (failed.code, failed.error) == (None, f"cannot execute {program}: {why}")
    assert run(runtime, places, "print('next')")[1].error == ""


def test_a_program_is_found_by_the_jobs_own_path(places: Places, runtime: NativeRuntime) -> None:
    places.env["PATH"] = "/nowhere:/bin:/usr/bin"
    handle = runtime.start(places.plan(("echo", "found"), Limits()), soon())
    places.release()
    assert hear(handle).out == b"found\n"
    handle.remove()


def test_a_job_has_the_signals_and_descriptors_of_a_first_one(
    places: Places, runtime: NativeRuntime
) -> None:
    source = """
        import os, signal
        ignored = [one for one in signal.valid_signals() if signal.getsignal(one) == signal.SIG_IGN]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        fds = [fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')]
        print(sorted(ignored), sorted(blocked), len(fds), os.getsid(0) == os.getpid())
    """
    first, _, said = run(runtime, places, source)
    second, _, again = run(runtime, places, source)
    assert (second, again) == (first, said)


def test_a_keeper_that_died_at_rest_is_replaced(places: Places, runtime: NativeRuntime) -> None:
    keeper, _, _ = run(runtime, places, "pass")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: gone(keeper), what="the keeper is dead")
    again, ended, said = run(runtime, places, "print('up')")
    assert (ended.code, said) == (0, "up\n")
    assert again != keeper


def test_two_at_once_have_two_keepers_and_one_of_them_rests(
    places: Places, runtime: NativeRuntime
) -> None:
    wait = "import signal; print('up', flush=True); signal.pause()"
    first, _, one = start(runtime, places, wait)
    second, _, other = start(runtime, places, wait)
    assert one != other
    first.remove()
    second.remove()
    wait_until(lambda: gone(other), what="the second keeper ends")
    assert not gone(one)
    assert run(runtime, places, "pass")[0] == one


def test_a_resting_keeper_ends_with_its_owner(
    places: Places, runtime: NativeRuntime, zygote: Zygote
) -> None:
    keeper, _, _ = run(runtime, places, "pass")
    assert not gone(keeper)
    zygote.close()
    wait_until(lambda: gone(keeper), what="the keeper ends")


def test_a_keeper_whose_owner_ended_keeps_its_attempt_and_ends_with_it(
    places: Places, runtime: NativeRuntime, zygote: Zygote
) -> None:
    run(runtime, places, "pass")
    _, _, keeper = start(runtime, places, "import signal; print('up', flush=True); signal.pause()")
    zygote.close()
    [handle] = runtime.recover()
    assert not gone(keeper)
    handle.remove()
    assert gone(keeper)
