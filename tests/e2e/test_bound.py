"""Whoever may write a job's record puts another configuration there for one attempt, and back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from celery.result import AsyncResult

from tasks.events import Checkpoint, Envelope, Log, Started
from tasks.job import JobConfig
from tasks.sent import SentCheckpoints
from tasks.trust import SigningKey, sign
from tests.integration.hub.support import history
from tests.support.checkpoints import bound
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

LOOKS = """
import json, os, sys, time
name, go = sys.argv[1:]
place = os.environ["CYXWIZ_CHECKPOINTS"]
print("found", sorted(os.listdir(place)), flush=True)
os.path.lexists(f"{place}/{name}") or os.symlink("/etc/passwd", f"{place}/{name}")
with open(f"{place}/{name}.txt", "w") as file:
    file.write(name)
print(json.dumps({"type": "checkpoint", "epoch": 1, "path": f"{name}.txt"}), flush=True)
while not os.path.exists(go):
    time.sleep(0.05)
"""


class Swapped:
    """A signed job, and the record of it as somebody else would have it."""

    def __init__(self, cluster: Cluster, key: SigningKey, go: Path) -> None:
        self.cluster = cluster
        job = {"sandbox": "none", "max_attempts": 9}
        self.signed = sign({**job, "command": ["python3", "-c", LOOKS, "secret", str(go)]}, key)
        self.theirs = JobConfig.parse(
            {
                **job,
                "job_id": self.signed.job_id,
                "command": ["python3", "-c", LOOKS, "planted", "/nowhere"],
            }
        )
        self.sent: AsyncResult = cluster.submit(self.signed.to_wire())

    def lost_as(self, config: JobConfig, fence: int) -> None:
        """The attempt is lost; the record has ``config`` before the next one begins."""
        records, node = self.cluster.app.records, self.cluster.node
        key = self.cluster.settings.keys.job(self.sent.id)
        records.client.hset(key, "spec", config.canonical())
        os.kill(node.keeper(node.paths.attempts / f"{self.sent.id}~{fence}"), signal.SIGKILL)

    def found(self, attempt: int) -> str:
        """What an attempt has found, once it has saved something itself."""

        def said() -> list[str]:
            mine = [one for one in self.told if one.attempt == attempt]
            saved = any(isinstance(one.event, Checkpoint) for one in mine)
            logs = [one.event for one in mine if isinstance(one.event, Log)]
            return [line for event in logs for line in event.lines] if saved else []

        wait_until(said, timeout=60, what=f"attempt {attempt} to run")
        return said()[0]

    @property
    def told(self) -> list[Envelope]:
        return history(self.cluster.app.records, self.sent.id)


@pytest.mark.parametrize("kept", ["shared", "store"])
def test_neither_finds_what_the_other_left(
    start_cluster: Callable[..., Cluster], tmp_path: Path, kept: str
) -> None:
    alice = SigningKey.generate()
    trusted, place, go = tmp_path / "alice.pub", tmp_path / "kept", tmp_path / "go"
    place.mkdir()
    file = {"name": "alice", "public_key": str(alice.public), "scope": {"native": True}}
    trusted.write_text(yaml.safe_dump(file))
    trusted.chmod(0o644)
    where = str(place) if kept == "shared" else f"local://{place}"
    storage = {"checkpoints": where, "checkpoints_every": 1.0}
    cluster = start_cluster(extra={"trust": {"keys": [str(trusted)]}, "storage": storage})
    job = Swapped(cluster, alice, go)
    index = SentCheckpoints(cluster.app.records.client, cluster.settings.keys)

    def stored(config: JobConfig, signer: str = "") -> None:
        """What it has saved is in the store, if there is one."""
        name = bound(config, signer)
        if kept == "store":
            wait_until(
                lambda: getattr(index.of(job.sent.id), "bound", "") == name,
                timeout=30,
                what="it is sent",
            )

    key = alice.public.key_id
    assert job.found(1) == "found []"
    stored(job.signed, key)
    job.lost_as(job.theirs, 1)
    assert job.found(2) == "found []", "it reads nothing of the signed one's"
    stored(job.theirs)
    job.lost_as(job.signed, 2)
    assert job.found(3) == "found ['secret', 'secret.txt']", "its own, and nothing planted"
    stored(job.signed, key)
    job.lost_as(job.signed, 3)
    assert job.found(4) == "found ['secret', 'secret.txt']"
    # whoever takes the attempt over sends it to the same place
    cluster.app.records.client.hdel(cluster.settings.keys.job(job.sent.id), "sent")
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    cluster.wait_adopted(job.sent)
    stored(job.signed, key)
    go.touch()
    assert job.sent.get(timeout=60)["why"].startswith("signed by alice")
    started = [one.event for one in job.told if isinstance(one.event, Started)]
    assert [bool(one.note) for one in started] == [False, True, True, True]
    assert "another signer" in started[1].note
    log = cluster.node.paths.slot_log("cpu0").read_text()
    assert f"checkpoint.anothers attempt={job.sent.id}~2 signed=False" in log
    assert f"checkpoint.anothers attempt={job.sent.id}~3 signed=True" in log
    cluster.wait_clean()
    wait_until(lambda: not [*place.rglob("*.txt")], timeout=30, what="nothing left of either")
