"""Data, code and artefacts of jobs on a whole node."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import artifacts
from tasks.control import cancel
from tasks.errors import JobFailed, JobRejected
from tasks.events import Fetching, Retrying
from tasks.outputs import NoArtifacts
from tasks.state import FailureReason, JobState
from tests.integration.store.serving import Page, Server
from tests.support.cluster import Cluster, started
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.keeper import procfs

pytestmark = pytest.mark.integration

SCRIPT = b"""
import base64, json, os, pathlib
from lib.reader import rows
job = json.loads(base64.b64decode(os.environ["CYXWIZ_JOB_CONFIG"]))
count = rows(os.environ["CYXWIZ_DATA"])
print(json.dumps({"type": "progress", "job_id": job["job_id"], "epoch": 1, "total_epochs": 1,
                  "loss": 0.5, "rows": count}))
(pathlib.Path(os.environ["CYXWIZ_OUTPUT"]) / "model.txt").write_text(f"rows {count}")
"""
READER = b"def rows(path):\n    return len(open(path).readlines())\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    storage = {
        "schemes": ["builtin", "file", "http"],
        "hosts": ["127.0.0.1"],
        "roots": [str(place / "data")],
        "artifacts": f"local://{place}/store",
        "cache_mb": 4,
        "keep_free_mb": 1,
    }
    (place / "data").mkdir()
    (place / "node").mkdir()
    with RedisServer() as redis:
        node = LiveNode(
            directory=place / "node", redis_url=redis.url, slots=2, extra={"storage": storage}
        )
        with started(node) as found:
            yield found


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.wait_clean()


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in {"p/train.py": SCRIPT, "p/lib/reader.py": READER}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_a_script_with_its_data_by_url(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    server.pages["/p.tar.gz"] = Page(archive(), etag='"1"')
    server.pages["/rows.csv"] = Page(b"1,2\n" * 100, etag='"1"')
    config: dict[str, Any] = {
        "script": "train.py",
        "code_uri": f"{server.url}/p.tar.gz",
        "dataset_uri": f"{server.url}/rows.csv",
    }
    jobs = [cluster.submit(config) for _ in range(3)]
    for job in jobs:
        result = job.get(timeout=60)
        assert result["metrics"]["rows"] == 100
        [one] = artifacts(job.id, app=cluster.app)
        assert (one.name, one.node) == ("model.txt", "node-a")
        assert one.fetch(tmp_path / job.id).read_text() == "rows 100"
        assert result["artifacts_dir"].endswith(f"/store/{job.id}/1")
    assert server.asked["GET /p.tar.gz"] == server.asked["GET /rows.csv"] == 1
    events = [one.event for job in jobs for one in cluster.events(job)]
    fetched = [one for one in events if isinstance(one, Fetching) and one.source.endswith(".csv")]
    assert fetched[0] == Fetching(source=f"{server.url}/rows.csv", done=0, total=400)
    assert fetched[-1].done == 400


def test_a_training_with_its_data_in_an_archive(cluster: Cluster, server: Server) -> None:
    rows = "".join(f"{n},{n % 2}\n" for n in range(40))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("set/rows.csv", "a,kind\n" + rows)
    server.pages["/set.zip"] = Page(out.getvalue(), etag='"1"')
    job = cluster.submit(
        {
            "model_definition": {"layers": [{"type": "Dense", "units": 2}]},
            "hyperparameters": {"target": "kind", "task": "classification"},
            "dataset_uri": f"{server.url}/set.zip",
        }
    )
    assert job.get(timeout=60)["metrics"]["epochs"] == 1


def test_a_running_job_keeps_its_data(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    """By its keeper, so also where the worker that fetched them is gone."""
    server.pages["/kept"] = Page(b"kept")
    go = tmp_path / "go"
    job = cluster.shell(
        f'until [ -e {go} ]; do sleep 0.05; done; cat "$CYXWIZ_DATA"',
        dataset_uri=f"{server.url}/kept",
    )
    cluster.wait_state(job, JobState.RUNNING)
    cache = cluster.node.paths.state_dir / "cache"
    [user] = [
        path
        for path in cache.glob("entries/*/users/*")
        if (path.parents[1] / "data" / "kept").exists()
    ]
    wait_until(lambda: len(holders(user)) == 2, what="the keeper and the job alone to hold it")
    assert cluster.node.pool_child("cpu0") not in holders(user)
    assert cluster.node.pool_child("cpu1") not in holders(user)
    go.touch()
    assert cluster.logged(job) == ["kept"]
    wait_until(lambda: not holders(user), what="nobody to hold it")


def holders(path: Path) -> list[int]:
    """The processes that have it open, the job's children left out."""
    found = []
    for pid in procfs.pids():
        comm = procfs.read_bytes(f"/proc/{pid}/comm") or b""
        with contextlib.suppress(OSError):
            opened = {fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()}
            if path in opened and comm.strip() != b"sleep":
                found.append(pid)
    return found


def test_data_larger_than_the_cache_are_handed_back(cluster: Cluster, server: Server) -> None:
    server.pages["/large"] = Page(bytes(6 << 20))
    job = cluster.shell("true", dataset_uri=f"{server.url}/large", expires=600)
    wait_until(lambda: cluster.record(job).reason, what="the hand-back")
    record = cluster.record(job)
    assert record.state is JobState.QUEUED
    assert record.attempt == 0
    assert record.reason == FailureReason.DATASET_UNAVAILABLE
    assert "storage.cache_mb" in record.message
    with pytest.raises(NoArtifacts, match="queued"):
        artifacts(job.id, app=cluster.app)
    cancel(job.id, app=cluster.app)
    [retrying] = [e.event for e in cluster.events(job) if isinstance(e.event, Retrying)]
    assert retrying.reason == FailureReason.DATASET_UNAVAILABLE


def test_cancelled_in_the_middle_of_a_fetch(cluster: Cluster, server: Server) -> None:
    server.pages["/slow"] = page = Page(bytes(1 << 20), hold_after=10)
    job = cluster.shell("true", dataset_uri=f"{server.url}/slow")
    assert page.held.wait(30)
    cancel(job.id, app=cluster.app)
    assert cluster.wait_state(job).state is JobState.CANCELLED
    partial = cluster.node.paths.state_dir / "cache" / "partial"
    wait_until(lambda: not list(partial.iterdir()), what="the half-done transfer to go")


def test_a_source_that_is_away_is_asked_again(cluster: Cluster, server: Server) -> None:
    job = cluster.shell("true", dataset_uri=f"{server.url}/gone", max_attempts=2)
    with pytest.raises(JobFailed) as caught:
        job.get(timeout=60)
    assert caught.value.reason == FailureReason.DATASET_UNAVAILABLE
    assert "404" in str(caught.value)
    assert cluster.record(job).attempt == 2


REFUSED: dict[str, Callable[[str], dict[str, str]]] = {
    "schemes": lambda url: {"dataset_uri": "s3://bucket/key"},
    "hosts": lambda url: {"dataset_uri": "http://169.254.169.254/latest/meta-data"},
    "chained": lambda url: {"dataset_uri": "http://x::file:///etc/passwd"},
    "roots": lambda url: {"script": "passwd.py", "code_uri": "file:///etc/passwd"},
    "other.py": lambda url: {"script": "other.py", "code_uri": f"{url}/p.tar.gz"},
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_no_attempt_can_mend_is_rejected(cluster: Cluster, server: Server, says: str) -> None:
    server.pages["/p.tar.gz"] = Page(archive(), etag='"1"')
    config = REFUSED[says](server.url)
    job = cluster.submit(config if "script" in config else {"command": ["true"], **config})
    with pytest.raises(JobRejected, match="'::'" if says == "chained" else says):
        job.get(timeout=60)
    assert cluster.record(job).attempt == 1
