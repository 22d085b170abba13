"""A container that stands still since its lease ran out does nothing more, however it is ended."""

from __future__ import annotations

import os
import signal

import docker
import pytest

from tests.integration.engine.jobs import Jobs
from tests.support.runtimes import hear
from tests.support.waiting import wait_until
from worker.keeper import lock, procfs
from worker.keeper.settle import Settlement, settle
from worker.runtimes.base import Status

pytestmark = pytest.mark.integration

# Beside its first process, which the engine kills, others that find work as soon as they run.
MANY = """
import os, signal, time
place = "/job/output/"
for _ in range(16):
    if os.fork() == 0:
        while not os.path.exists(place + "go"):
            time.sleep(0.001)
        open(place + "ran", "a").close()
        os._exit(0)
print("up", flush=True)
signal.pause()
"""


BOTH = "keeper and mourner killed"


def running(raw: docker.APIClient, name: str) -> bool:
    return bool(raw.inspect_container(name)["State"]["Running"])


@pytest.mark.parametrize("how", ["fenced", "keeper killed", BOTH])
def test_none_of_it_runs_while_it_dies(jobs: Jobs, raw: docker.APIClient, how: str) -> None:
    """Thawed by its death, as version 1 of control groups does, it must be dead at once."""
    for _ in range(2):
        handle = jobs.start(MANY)
        output = jobs.places.root / "output" / str(handle.attempt)
        hear(handle, until=lambda heard: b"up\n" in heard.out)
        [name] = jobs.containers()
        handle.pause()
        wait_until(lambda h=handle: h.status() is Status.PAUSED, what="it stands still")
        (output / "go").touch()
        if how == "fenced":
            handle.fence()
            assert hear(handle, timeout=60).exit is not None
        else:
            state = jobs.places.state / "attempts" / str(handle.attempt)
            record = lock.read(state)
            assert record is not None
            mourner = procfs.children(record.pid) if how == BOTH else []
            for pid in (*(mourner or ()), record.pid):
                os.kill(pid, signal.SIGKILL)
            if how == BOTH:
                wait_until(lambda s=state: not lock.alive(s), what="the keeper is dead")
                assert settle(state).outcome is Settlement.SETTLED
            else:
                wait_until(lambda n=name: not running(raw, n), timeout=30, what="it is dead")
        assert not (output / "ran").exists()
        handle.remove()
