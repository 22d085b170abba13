"""Commands beside a running attempt."""

from __future__ import annotations

import contextlib
import time

import pytest

from tasks.errors import KeeperError
from tests.support.programs import WAITS, up
from tests.support.runtimes import PYTHON, Harness, hear, soon
from tests.support.waiting import wait_until
from worker.runtimes.base import Beside, Handle, Status, Stream

pytestmark = pytest.mark.contract


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
    if harness.runtime.capabilities().name != "fake":
        leaves_nothing(handle, python)
    last = handle.exec(hangs)
    first_output(last)
    handle.fence()
    hear(handle)
    with contextlib.suppress(KeeperError):
        assert heard_beside(last)[0] == 137
    last.close()
    handle.remove()


HANGS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


LEAVES = """
import os, time
reader, writer = os.pipe()
if os.fork():
    print(int(os.read(reader, 20)), flush=True)
    {then}
os.setsid()
if os.fork():
    os._exit(0)
os.write(writer, str(os.getpid()).encode())
time.sleep(600)
"""


def leaves_nothing(handle: Handle, python: str) -> None:
    """A command that is ended, and one that ends by itself, with a daemon in a session of its own
    that has lost its parents."""
    ended = handle.exec([python, "-S", "-c", LEAVES.format(then="time.sleep(600)")])
    daemons = [int(first_output(ended))]
    ended.close()
    by_itself = [python, "-S", "-c", LEAVES.format(then="os._exit(3)")]
    code, out, _ = heard_beside(handle.exec(by_itself))
    assert code == 3
    for daemon in (*daemons, int(out)):
        look = f"test -d /proc/{daemon}"
        wait_until(lambda look=look: beside(handle, look)[0] == 1, what="the daemon's end")  # type: ignore[misc]  # mypy and defaults


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
