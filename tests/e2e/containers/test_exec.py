"""``cyxwiz exec`` beside a job in a container: in the same sandbox, and ended like any other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from celery.result import AsyncResult

from tasks.errors import ExecFailed, ExecRefused
from tasks.executing import execute
from tasks.state import JobState
from tests.support.commanding import Operators
from tests.support.contained import Contained
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WAITS = """
import os, pathlib, time
pathlib.Path("/job/checkpoints/pid").write_text(str(os.getpid()))
while not pathlib.Path("/job/checkpoints/go").exists():
    time.sleep(0.05)
"""
WHERE = """
import json, os, socket
job = "/proc/" + open("/job/checkpoints/pid").read()
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
mine = {name: status[name].strip() for name in ("CapEff", "NoNewPrivs", "Seccomp")}
mine |= {"uid": os.getuid(), "job": os.environ["CYXWIZ_JOB_ID"]}
mine["links"] = [name for _, name in socket.if_nameindex()]
for name in ("net", "pid", "mnt", "ipc", "uts"):
    mine[name] = os.readlink(f"/proc/self/ns/{name}") == os.readlink(f"{job}/ns/{name}")
mine["cgroup"] = open("/proc/self/cgroup").read() == open(f"{job}/cgroup").read()
try:
    open("/planted", "w")
except OSError as error:
    mine["root"] = error.strerror
print(json.dumps(mine))
"""
HANGS = "import time; print('up', flush=True); time.sleep(600)"


def python(code: str) -> list[str]:
    return ["python3", "-S", "-c", code]


def running_execs(contained: Contained, job: AsyncResult) -> list[str]:
    """The commands that the engine says run in the job's container."""
    found = contained.container(job)["ExecIDs"] or []
    return [one for one in found if contained.raw.exec_inspect(one)["Running"]]


def test_a_command_is_in_the_jobs_sandbox_and_bounded(
    start_contained: Callable[..., Contained], tmp_path: Path
) -> None:
    operators = Operators.made(tmp_path)
    contained = start_contained(extra=operators.sections, slots=1)
    cluster = contained.cluster
    app = cluster.app
    job = cluster.submit(operators.signed(command=python(WAITS), memory_mb=128))
    cluster.wait_state(job, JobState.RUNNING, timeout=90)
    runs = contained.container(job)["Id"]
    code, out, err = operators.run(app, job.id, *python(WHERE))
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "uid": 1000, "CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2",
        "links": ["lo"], "job": job.id,
        **dict.fromkeys(("net", "pid", "mnt", "ipc", "uts", "cgroup"), True),
        "root": "Read-only file system",
    }  # fmt: skip
    assert operators.run(app, job.id, *python("import sys; sys.exit(9)"))[0] == 9

    with pytest.raises(ExecFailed, match=r"longer than 0\.5 s"):
        operators.run(app, job.id, *python(HANGS), seconds=0.5)
    wait_until(lambda: not running_execs(contained, job), what="the end of what hung")
    with pytest.raises(ExecFailed, match="more than 1048576 bytes"):
        operators.run(app, job.id, *python("while True: print('x' * 9999)"))
    wait_until(lambda: not running_execs(contained, job), what="the end of what flooded")
    with pytest.raises(ExecRefused, match="the key alice may not"):
        operators.run(app, job.id, "true", key=operators.alice)

    # the slot's child dies; its successor ends what it had begun
    saying = execute(job.id, python(HANGS), key=operators.ops, app=app)
    next(saying)
    assert len(running_execs(contained, job)) == 1
    os.kill(contained.node.pool_child(), signal.SIGKILL)
    cluster.wait_adopted(job)
    wait_until(lambda: not running_execs(contained, job), what="the end of what was left")
    saying.close()
    assert contained.container(job)["Id"] == runs
    with contextlib.suppress(ExecFailed):  # it ends with the job, which may be faster
        operators.run(app, job.id, *python("open('/job/checkpoints/go', 'w')"))
    assert job.get(timeout=60)["mode"] == "docker"
    contained.wait_clean()
