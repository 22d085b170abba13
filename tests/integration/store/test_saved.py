"""Checkpoints in a store: sent by one node, brought to another, and never what was not sent."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.job import JobConfig
from tasks.record import Records
from tasks.recorded import Lease
from tasks.sent import SentCheckpoints
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, run_out, submit
from tests.support.waiting import wait_until
from worker.binding import UNBOUND, Binding
from worker.checkpoints import Checkpoints
from worker.keeping import Keeping
from worker.node import services
from worker.node.paths import NodePaths
from worker.node.services import Sweep
from worker.store.errands import snapshots
from worker.store.errands.talk import Talk
from worker.store.policy import Policy
from worker.store.refusals import DataRefused, DataUnavailable
from worker.store.retention import Retention
from worker.store.saved import SavedCheckpoints
from worker.store.send import Waiting

pytestmark = pytest.mark.integration


class Site:
    """Two nodes that have one store and one hub, and a job."""

    def __init__(self, tmp_path: Path, policy: Policy, records: Records) -> None:
        self.tmp_path = tmp_path
        self.policy = policy
        self.records = records
        self.folder = tmp_path / "store" / "_checkpoints"
        self.store = SavedCheckpoints(policy, f"local://{tmp_path}/store")
        self.index = SentCheckpoints(records.client, records.keys)
        self.job = submit(records, max_attempts=9)
        self.own = Binding.of(JobConfig.parse(records.get(self.job).spec).digest(), "")

    def checkpoints(self, node: str) -> Checkpoints:
        paths = NodePaths(state_dir=self.tmp_path / node)
        for directory in (paths.jobs, paths.attempts):
            directory.mkdir(parents=True, exist_ok=True)
        return Checkpoints(paths=paths)

    def here(self, node: str) -> Path:
        return self.checkpoints(node).of(self.job, self.own.name)

    def attempt(self, node: str) -> tuple[Lease, Keeping]:
        """Another attempt, on ``node``; what went before it has lost its lease."""
        if self.records.get(self.job).fence:
            run_out(self.records, self.job)
            self.records.upkeep.reap(0)
        lease = claim(self.records, self.job, node=node)
        return lease, self.keeping(node, lease)

    def keeping(self, node: str, lease: Lease, bound: str | None = None) -> Keeping:
        return Keeping(
            self.store,
            self.index,
            self.checkpoints(node),
            self.records,
            lease,
            self.policy,
            self.own.name if bound is None else bound,
        )

    def bring(self, keeping: Keeping) -> bool:
        return keeping.bring(self.own, lambda ask: ask(), lambda: None, lambda: None)

    def swapped(self, **fields: Any) -> None:
        """From here on the record has another configuration, and may be signed by somebody."""
        signer = fields.pop("signer", "")
        config = {**self.records.get(self.job).spec, **fields}
        self.own = Binding.of(JobConfig.parse(config).digest(), signer)

    def save(self, node: str, **files: str) -> None:
        self.here(node).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (self.here(node) / name).write_text(content)

    def has(self, node: str) -> dict[str, str]:
        here = self.here(node)
        return {one.name: one.read_text() for one in here.iterdir()} if here.exists() else {}

    @property
    def place(self) -> Path:
        return self.folder / self.job / self.own.name

    def stored(self) -> set[str]:
        return {one.name for one in self.place.iterdir()} if self.place.exists() else set()

    def sweeps(self, store: SavedCheckpoints | None = None) -> Sweep:
        self.records.client.delete(self.records.keys.checkpoints_swept(self.store.id))
        checkpoints = self.checkpoints("node-a")
        retention = Retention(place=self.tmp_path / "none", days=0)
        return Sweep(self.records, checkpoints, retention, store or self.store)

    def sweep(self) -> None:
        self.sweeps().once()

    def left(self, *jobs: str) -> None:
        """Jobs that nobody knows any more, with something in the store."""
        for job_id in jobs:
            self.records.client.hset(self.records.keys.checkpoints, job_id, self.store.id)


@pytest.fixture
def site(tmp_path: Path, policy: Callable[..., Policy], hub: Hub) -> Site:
    given: dict[str, Any] = {"checkpoints_every": 0.01}
    return Site(tmp_path, policy(**given), Records(hub.client, hub.settings.keys))


def test_the_next_attempt_elsewhere_has_what_was_sent(site: Site) -> None:
    lease, keeping = site.attempt("node-a")
    site.bring(keeping)
    site.save("node-a", one="1", two="2")
    keeping.saved()
    wait_until(lambda: site.index.of(site.job) is not None, timeout=30, what="it to be sent")
    keeping.close()
    _, other = site.attempt("node-b")
    site.bring(other)
    assert site.has("node-b") == {"one": "1", "two": "2"}
    assert (site.here("node-b") / "one").stat().st_mode & 0o077 == 0
    # which goes on, on the first node again: what that one has is older by now
    site.save("node-b", three="3")
    (site.here("node-b") / "one").unlink()
    other.last()
    third, last = site.attempt("node-a")
    site.bring(last)
    assert site.has("node-a") == {"two": "2", "three": "3"}
    # and once more there: what it has is as new as what it sent, or newer
    site.save("node-a", four="4")
    last.close()
    assert third.fence > lease.fence
    _, again = site.attempt("node-a")
    site.bring(again)
    assert site.has("node-a") == {"two": "2", "three": "3", "four": "4"}
    assert sorted(one.name for one in (site.here("node-a").parent).iterdir()) == [
        f"checkpoints-{site.own.name}",
        f"sent-{site.own.name}.json",
    ]


def test_only_what_the_last_two_have_stays_there(site: Site) -> None:
    _, keeping = site.attempt("node-a")
    for number in range(4):
        site.save("node-a", saved=str(number))
        before = site.index.of(site.job)
        keeping.saved()
        wait_until(lambda b=before: site.index.of(site.job) != b, timeout=30, what="it to be sent")
    assert len(site.stored()) == 4, "two lists and two files"
    finish(site.records, keeping._lease)
    keeping.drop()
    wait_until(lambda: not site.stored(), timeout=30, what="it to be removed")
    wait_until(lambda: not site.index.store_of(site.job), timeout=30, what="it to be forgotten")


@pytest.mark.parametrize("harm", ["shorter", "other", "gone", "list", "link"])
def test_what_is_not_what_was_sent_is_not_used(site: Site, harm: str) -> None:
    _, keeping = site.attempt("node-a")
    site.save("node-a", saved="x" * 1000)
    keeping.last()
    sent = site.index.of(site.job)
    assert sent is not None
    [name] = site.stored() - {sent.sha256}
    place = site.place
    match harm:
        case "shorter":
            os.truncate(place / name, 999)
        case "other":
            (place / name).write_text("y" * 1000)
        case "gone":
            (place / name).unlink()
        case "list":
            (place / sent.sha256).write_text(f'[["../../escaped", 1000, "{name}"]]')
        case "link":
            (place / name).unlink()
            (place / name).symlink_to("/etc/passwd")
    _, other = site.attempt("node-b")
    site.bring(other)
    assert site.has("node-b") == {}
    left = [one.name for one in site.here("node-b").parent.iterdir()]
    assert left == [f"sent-{site.own.name}.json"]


ALICE = "a" * 32
"""The id of a key."""


def test_what_another_attempt_of_the_same_id_sent_is_not_brought(site: Site) -> None:
    """Somebody swaps the configuration in the record for one attempt, and back."""
    site.swapped(signer=ALICE)
    signed = site.own
    _, mine = site.attempt("node-a")
    assert not site.bring(mine)
    site.save("node-a", secret="1")
    mine.last()
    site.swapped(command=["their", "own"])
    theirs = site.own
    _, other = site.attempt("node-b")
    assert site.bring(other), "it is told that there is something"
    assert site.has("node-b") == {}
    site.save("node-b", planted="1")
    other.last()
    site.own = signed
    for node in ("node-a", "node-b", "node-c"):
        _, again = site.attempt(node)
        assert site.bring(again)
        assert site.has(node) == ({"secret": "1"} if node == "node-a" else {})
    # and what they may write in the record names nothing of theirs in the signed job's place
    sent = site.index.of(site.job)
    assert sent is not None
    assert sent.bound == theirs.name
    lease, last = site.attempt("node-c")
    site.index.whole(lease, replace(sent, bound=signed.name))
    assert not site.bring(last)
    assert site.has("node-c") == {}
    up = replace(sent, bound=signed.name, sha256=f"../{theirs.name}/{sent.sha256}")
    site.index.whole(lease, up)
    assert not site.bring(last)
    assert site.has("node-c") == {}
    finish(site.records, lease)
    last.drop()
    gone = site.folder / site.job
    wait_until(lambda: not gone.exists(), timeout=30, what="all of them to be removed")


@pytest.mark.parametrize("signer", ["", ALICE])
def test_what_an_earlier_version_sent_is_no_signed_jobs(site: Site, signer: str) -> None:
    lease, _ = site.attempt("node-a")
    old = site.keeping("node-a", lease, UNBOUND)
    place = site.checkpoints("node-a").of(site.job, UNBOUND)
    place.mkdir(parents=True)
    (place / "saved").write_text("1")
    old.last()
    sent = site.index.of(site.job)
    assert sent is not None
    assert (site.folder / site.job / sent.sha256).is_file(), "as that version has it"
    written: Any = site.records.client.hget(site.records.keys.job(site.job), "sent")
    assert sorted(json.loads(written)) == ["fence", "sha256", "store"]
    site.swapped(signer=signer)
    _, new = site.attempt("node-b")
    assert site.bring(new) == bool(signer)
    assert site.has("node-b") == ({} if signer else {"saved": "1"})
    # what is here of the same attempt is as new, and needs no store
    own = site.checkpoints("node-a")
    assert own.begin(site.job, site.own) == bool(signer)
    (site.folder / site.job / sent.sha256).unlink()
    _, again = site.attempt("node-a")
    assert site.bring(again) == bool(signer)
    assert site.has("node-a") == ({} if signer else {"saved": "1"})


def test_whoever_has_lost_the_job_names_no_snapshot(site: Site) -> None:
    _, old = site.attempt("node-a")
    site.save("node-a", saved="old")
    old.last()
    _, stale = site.attempt("node-a")
    site.save("node-a", saved="stale")
    _, new = site.attempt("node-b")
    site.bring(new)
    site.save("node-b", saved="new")
    new.last()
    sent = site.index.of(site.job)
    stale.last()
    assert site.index.of(site.job) == sent
    _, last = site.attempt("node-a")
    site.bring(last)
    assert site.has("node-a") == {"saved": "new"}


def test_a_store_that_takes_nothing_harms_nobody(site: Site) -> None:
    (site.tmp_path / "store").write_text("no folder")
    _, keeping = site.attempt("node-a")
    site.save("node-a", saved="1")
    keeping.last()
    assert site.index.of(site.job) is None
    assert site.has("node-a") == {"saved": "1"}
    (site.tmp_path / "store").unlink()
    _, again = site.attempt("node-a")
    again.saved()
    wait_until(lambda: site.index.of(site.job) is not None, timeout=30, what="it to be sent")
    again.close()


def test_what_fails_is_tried_again(site: Site) -> None:
    (site.tmp_path / "store").write_text("no folder")
    _, keeping = site.attempt("node-a")
    site.save("node-a", saved="1")
    keeping.saved()
    wait_until(lambda: bool(site.index.store_of(site.job)), timeout=30, what="a first try")
    (site.tmp_path / "store").unlink()
    wait_until(lambda: site.index.of(site.job) is not None, timeout=30, what="a second one")
    keeping.close()


def test_the_sweep_removes_what_a_job_left_that_ended_unseen(site: Site) -> None:
    lease, keeping = site.attempt("node-a")
    site.save("node-a", saved="1")
    keeping.last()
    site.sweep()
    assert site.stored(), "the job runs"
    finish(site.records, lease, state=JobState.CANCELLED)
    elsewhere = SavedCheckpoints(site.policy, "local:///another/store")
    assert site.index.over(elsewhere.id) == []
    site.sweep()
    assert not site.stored()
    assert site.index.over(site.store.id) == []
    assert not site.index.store_of(site.job)


@pytest.mark.parametrize("name", ["..", "../outside", "/outside", "", "a/b", "job\n"])
def test_what_is_no_job_is_not_removed(site: Site, name: str) -> None:
    """Whoever can write to Redis, or to a node's state, names whatever they like."""
    outside = site.folder.parent / "outside"
    outside.mkdir(parents=True)
    (outside / "kept").touch()
    with pytest.raises(DataRefused, match="is no job's id"):
        site.store.remove(name, Waiting(stall=20))
    site.records.client.hset(site.records.keys.checkpoints, name, site.store.id)
    assert site.index.over(site.store.id) == []
    site.sweep()
    assert (outside / "kept").exists()


class Unwilling(SavedCheckpoints):
    """A store that does not let go of some jobs' files."""

    def __init__(self, site: Site, keeps: str) -> None:
        super().__init__(site.policy, f"local://{site.tmp_path}/store")
        self.keeps = keeps
        self.asked: list[str] = []

    def remove(self, job_id: str, waiting: Waiting) -> None:
        self.asked.append(job_id)
        if job_id[0] in self.keeps:
            raise DataUnavailable("not that one")


def test_one_job_whose_files_stay_keeps_no_other(site: Site) -> None:
    site.left("a", "b", "c", "d")
    store = Unwilling(site, "b")
    site.sweeps(store).once()
    assert sorted(store.asked) == ["a", "b", "c", "d"]
    assert site.index.over(site.store.id) == ["b"]


def test_a_store_that_keeps_all_is_left_alone_for_now(site: Site) -> None:
    site.left("a", "b", "c", "d")
    store = Unwilling(site, "abcd")
    site.sweeps(store).once()
    assert len(store.asked) == 3
    assert sorted(site.index.over(site.store.id)) == ["a", "b", "c", "d"]


def test_a_store_that_hangs_does_not_hold_up_the_end(site: Site) -> None:
    asked = threading.Event()

    class Hanging(Unwilling):
        def remove(self, job_id: str, waiting: Waiting) -> None:
            asked.set()
            while True:
                waiting.check()

    site.left("a", "b")
    sweep = site.sweeps(Hanging(site, ""))
    sweep.start()
    assert asked.wait(30)
    sweep.stop()
    assert sorted(site.index.over(site.store.id)) == ["a", "b"]


@pytest.mark.parametrize("field", ["state", "attempt", "spec"])
def test_a_job_whose_record_is_of_another_version_is_not_over(site: Site, field: str) -> None:
    site.left("a", site.job)
    site.save("node-a", saved="1")
    site.records.client.hset(site.records.keys.job(site.job), field, "of-tomorrow")
    assert site.index.over(site.store.id) == ["a"]
    site.sweep()
    assert site.has("node-a") == {"saved": "1"}
    assert site.index.over(site.store.id) == [], "what comes after it is swept"
    assert site.index.store_of(site.job)


def test_a_fault_ends_one_sweep_and_not_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "_SWEEP_EVERY_S", 0.01)
    sweep = site.sweeps()
    rounds: list[int] = []

    def once() -> None:
        rounds.append(len(rounds))
        raise ValueError("nobody thought of that")

    monkeypatch.setattr(sweep, "once", once)
    sweep.start()
    wait_until(lambda: len(rounds) > 1, what="another one")
    sweep.stop()
    assert "sweep.broken" in caplog.text


def test_a_removal_says_that_it_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each file: an errand that says nothing seems to stand still."""
    monkeypatch.setattr("worker.store.errands.talk._EVERY_S", 0)
    place = site.folder / "a"
    (place / "folder").mkdir(parents=True)
    for name in ("1", "2", "folder/3"):
        (place / name).touch()
    (site.folder / "b").mkdir()
    said = io.BytesIO()
    request = {"scheme": "local", "url": f"local://{place}", "options": {}}
    for lines in (3, 0):
        assert snapshots.remove(request, Talk(io.BytesIO(), said)) == {}
        assert [json.loads(line) for line in said.getvalue().splitlines()] == [
            {"at": number} for number in range(lines)
        ]
        said.truncate(said.seek(0))
    assert [one.name for one in site.folder.iterdir()] == ["b"]
