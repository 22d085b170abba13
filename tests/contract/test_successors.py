"""Supervisors that come and go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tasks.errors import KeeperError
from tests.support.programs import IGNORES_TERM, TICKS, WAITS, up
from tests.support.runtimes import ABANDON_AFTER, Harness, Places, Program, hear, soon
from tests.support.waiting import wait_until
from worker.plan import StopCause
from worker.runtimes.base import Stream
from worker.runtimes.fake_script import Await, Exit, Gate, Script, Write

pytestmark = pytest.mark.contract


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


def _settle(path: Path) -> None:
    from worker.keeper.settle import remove_tree, settle

    if path.parent.name == "attempts":
        settle(path)
    remove_tree(path)
