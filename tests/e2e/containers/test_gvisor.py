"""A node whose jobs have gVisor's kernel, and one whose jobs have not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks import events
from tasks.errors import JobRejected
from tasks.state import JobState
from tests.support import engine
from tests.support.contained import Contained

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# it stays for a moment: what ends at once the host does not see
TELLS = "import os, time; print(os.uname().release, os.getuid(), flush=True); time.sleep(2)"


def test_who_demands_it_gets_it_or_nothing(
    contained: Contained, start_contained: Callable[..., Contained]
) -> None:
    engine.require_gvisor()
    # here nobody reads the queue of such jobs; one that comes all the same is not run without
    job = contained.cluster.command(TELLS, sandbox="gvisor")
    contained.cluster.wait_state(job, JobState.QUEUED)
    contained.deliver(job)
    with pytest.raises(JobRejected, match="gvisor is asked for, and this node has no runsc"):
        job.get(timeout=60)
    assert not contained.cluster.logged(job)

    there = start_contained("node-b", extra={"docker": {"runtime": "runsc"}})
    for sandbox in ("gvisor", "required"):
        job = there.cluster.command(TELLS, sandbox=sandbox)
        assert job.get(timeout=60)["mode"] == "docker"
        assert there.cluster.logged(job) == ["4.4.0 1000"]
        said = {one.type: one.event for one in there.cluster.events(job)}
        admitted, started = said["admitted"], said["started"]
        assert isinstance(admitted, events.Admitted)
        assert isinstance(started, events.Started)
        assert admitted.sandbox_level == 2
        assert started.sandbox["seen"]["kernel"] == "gVisor's own"
    there.wait_clean()
