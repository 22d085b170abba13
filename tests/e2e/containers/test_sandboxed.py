"""Untrusted jobs on a node with a container engine: confined, checked, and the same as natively."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import docker
import pytest

from tasks import events
from tasks.control import Ask, ask, cancel
from tasks.errors import JobFailed
from tasks.following import follow
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.contained import Contained
from tests.support.proof import proven, root_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[3] / "examples"
DIGITS: dict[str, Any] = {
    "dataset_uri": "builtin:digits",
    "model_definition": {
        "layers": [{"type": "Dense", "units": 16}, {"type": "ReLU"}, {"type": "Dense", "units": 10}]
    },
    "epochs": 3,
    "seed": 7,
    "cpu_cores": 1,
}
WAIT_FOR_GO = """
import os, pathlib, sys, time
print("at work", flush=True)
while not pathlib.Path("/job/checkpoints/go").exists():
    time.sleep(0.05)
"""
WHERE = """
import json, os, socket
out = {"uid": os.getuid(), "gid": os.getgid()}
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
out["caps"] = status["CapEff"].strip()
out["nnp"] = status["NoNewPrivs"].strip()
out["interfaces"] = sorted(name for _, name in socket.if_nameindex())
try:
    open("/planted", "w")
    out["root"] = "written"
except OSError as error:
    out["root"] = error.strerror
open("/job/output/mine.txt", "w").write("kept")
print(json.dumps(out), flush=True)
"""


def test_what_its_node_says_of_it_is_signed(contained: Contained) -> None:
    # long enough for the host's look at it
    done = contained.cluster.command("import time; print('hello', flush=True); time.sleep(1)")
    failed = contained.cluster.submit({"command": ["sh", "-c", "exit 3"]})
    root = root_of(contained.cluster)
    assert done.get(timeout=120, trust=root)["mode"] == "docker"
    with pytest.raises(JobFailed, match="exited with 3"):
        failed.get(timeout=120, trust=root)
    [started] = [one.event for one in proven(contained.cluster, done) if one.type == "started"]
    assert isinstance(started, events.Started)
    assert started.sandbox["seen"]
    proven(contained.cluster, failed)


def test_an_untrusted_training_is_confined_and_computes_what_a_native_one_does(
    contained: Contained, cluster: Cluster
) -> None:
    here, there = contained.cluster.submit(DIGITS), cluster.submit(DIGITS)
    confined, native = here.get(timeout=120), there.get(timeout=120)
    assert (confined["mode"], native["mode"]) == ("docker", "native")
    assert confined["metrics"] == native["metrics"]
    assert confined["image"].startswith("cyxwiz/executor:cpu-")
    assert confined["image_id"].startswith("sha256:")
    assert Path(confined["model_path"]).stat().st_size > 0
    said = {one.type: one.event for one in contained.cluster.events(here)}
    admitted, started = said["admitted"], said["started"]
    assert isinstance(admitted, events.Admitted)
    assert (admitted.mode, admitted.sandbox_level, admitted.warning) == ("docker", 2, "")
    assert isinstance(started, events.Started)
    assert (started.mode, started.image) == ("docker", confined["image"])


def test_a_script_for_a_shell_gets_its_arguments_and_leaves_its_files_as_natively(
    contained: Contained, cluster: Cluster
) -> None:
    args = ["--lr", "0.1", "$HOME", "a b", ""]
    for one, mode in ((contained.cluster, "docker"), (cluster, "native")):
        code = one.node.directory / "data" / "code"
        code.mkdir()
        shutil.copy(EXAMPLES / "scripts" / "plain" / "run.sh", code)
        (code / "main.py").write_text(
            "import json, pathlib, sys\nimport beside\n"
            "print(json.dumps(sys.argv[1:]))\npathlib.Path('model.pt').write_text(beside.NAME)\n"
        )
        (code / "beside.py").write_text("NAME = 'a model'\n")
        job = one.submit({"script": "run.sh", "code_uri": f"file://{code}", "args": args})
        result = job.get(timeout=120)
        assert result["mode"] == mode
        assert one.logged(job) == [json.dumps(args)]
        assert [file["name"] for file in result["artifacts"]] == ["model.pt"]
        assert (Path(result["artifacts_dir"]) / "model.pt").read_text() == "a model"


def test_it_is_nobody_reaches_nothing_and_writes_its_output_alone(contained: Contained) -> None:
    job = contained.cluster.command(WHERE)
    result = job.get(timeout=60)
    (line,) = contained.cluster.logged(job)
    assert json.loads(line) == {
        "uid": 1000,
        "gid": 1000,
        "caps": "0" * 16,
        "nnp": "1",
        "interfaces": ["lo"],
        "root": "Read-only file system",
    }
    assert [one["name"] for one in result["artifacts"]] == ["mine.txt"]


def test_the_engine_shows_the_policy_and_the_record_what_was_seen(
    contained: Contained,
) -> None:
    job = contained.cluster.command(WAIT_FOR_GO, memory_mb=128)
    shown = contained.container(job)
    host, config = shown["HostConfig"], shown["Config"]
    assert config["User"] == "1000:1000"
    assert config["Labels"]["org.cyxwiz.node"] == "node-a"
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] == 128 << 20
    assert host["PidsLimit"] == 128
    assert host["NanoCpus"] == 10**9
    assert host["ShmSize"] == 32 << 20
    assert host["IpcMode"] == "private"
    assert host["Init"] is True
    assert host["AutoRemove"] is False
    assert {one["Name"]: one["Hard"] for one in host["Ulimits"]}["core"] == 0
    assert "noexec" in host["Tmpfs"]["/tmp"]
    record = contained.cluster.wait_state(job, JobState.RUNNING)
    seen = record.sandbox["seen"]
    assert seen["uid"].split() == ["1000"] * 4
    assert seen["capabilities"] == "0" * 16
    assert (seen["no_new_privs"], seen["seccomp"], seen["root"]) == ("1", "2", "ro")
    assert (seen["memory"], seen["pids"]) == (str(128 << 20), "128")
    assert record.sandbox["loosened"] == []
    assert record.sandbox["engine_items"] > 20
    assert record.image == record.sandbox["image_id"]
    _let_go(contained, job)
    assert job.get(timeout=60)["mode"] == "docker"


def test_orders_reach_the_container(contained: Contained, raw: docker.APIClient) -> None:
    job = contained.cluster.command(WAIT_FOR_GO)
    found = contained.container(job)["Id"]
    contained.cluster.wait_state(job, JobState.RUNNING)
    ask(job.id, Ask.PAUSE, app=contained.cluster.app)
    wait_until(lambda: raw.inspect_container(found)["State"]["Paused"], what="it stands still")
    ask(job.id, Ask.RESUME, app=contained.cluster.app)
    wait_until(lambda: not raw.inspect_container(found)["State"]["Paused"], what="it goes on")
    _cancel(contained, job)
    assert contained.cluster.wait_state(job).state is JobState.CANCELLED


def test_a_shortage_of_memory_that_the_job_survives_is_told(contained: Contained) -> None:
    job = contained.cluster.command(
        "import os\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    held = []\n"
        "    while True: held.append(bytearray(b'x' * (8 << 20)))\n"
        "os.waitpid(child, 0)",
        memory_mb=96,
    )
    assert job.get(timeout=60)["oom"] is True
    usage = [one.event for one in contained.cluster.events(job) if one.type == "usage"]
    assert isinstance(usage[-1], events.Usage)
    assert usage[-1].oom


def test_a_memory_bomb_is_out_of_memory(contained: Contained) -> None:
    job = contained.cluster.command(
        "held = []\nwhile True: held.append(bytearray(b'x' * (8 << 20)))",
        memory_mb=96,
        max_attempts=1,
    )
    with pytest.raises(JobFailed, match="out_of_memory"):
        job.get(timeout=60)


PLANT = (
    "import json, os\n"
    "os.symlink('/etc/shadow', '/job/output/model.safetensors')\n"
    "print(json.dumps({'type': 'complete', 'job_id': %s, 'success': True,"
    " 'model_path': '/job/output/model.safetensors', 'error': ''}), flush=True)"
)


def test_a_link_to_a_file_of_the_hosts_is_no_model(contained: Contained) -> None:
    job = contained.cluster.command(PLANT % "os.environ['CYXWIZ_JOB_ID']", max_attempts=1)
    with pytest.raises(JobFailed, match="invalid_output"):
        job.get(timeout=60)


def test_an_end_that_is_said_of_another_job_is_a_line_of_the_log(contained: Contained) -> None:
    job = contained.cluster.command(PLANT % "'another'")
    result = job.get(timeout=60)
    assert (result["model_path"], result["artifacts"]) == ("", [])
    assert "model.safetensors" in str(result["refused"])
    assert "another" in contained.cluster.logged(job)[0]


def test_an_image_that_is_not_allowed_is_not_run(contained: Contained) -> None:
    job = contained.cluster.submit({"command": ["true"], "image": "busybox:latest"})
    retrying = _first(contained, job, "retrying")
    assert isinstance(retrying, events.Retrying)
    assert retrying.reason == "image_unavailable"
    assert "images.allow" in retrying.message
    _cancel(contained, job)


def test_an_image_that_is_missing_is_named(contained: Contained) -> None:
    job = contained.cluster.submit({"command": ["true"], "image": "cyxwiz/none:1"})
    retrying = _first(contained, job, "retrying")
    assert isinstance(retrying, events.Retrying)
    assert retrying.reason == "image_unavailable"
    assert "docker.pull_policy is never" in retrying.message
    _cancel(contained, job)


def test_network_is_for_signed_jobs(contained: Contained) -> None:
    job = contained.cluster.submit({"command": ["true"], "network": "bridge"})
    with pytest.raises(JobFailed, match="untrusted"):
        job.get(timeout=60)


def _let_go(contained: Contained, job: Any) -> None:
    """The checkpoints' directory is the node's and the job's: the host writes into it."""
    (contained.cluster.checkpoints(job) / "go").touch()


def _cancel(contained: Contained, job: Any) -> None:
    cancel(job.id, "enough", app=contained.cluster.app)


def _first(contained: Contained, job: Any, kind: str) -> events.Event:
    for one in follow(job.id, settings=contained.cluster.settings, timeout=30):
        if one.type == kind:
            return one.event
    raise AssertionError(f"no {kind} event of {job.id}")
