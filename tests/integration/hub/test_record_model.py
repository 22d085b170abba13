"""The record against a model: whatever is said to it in whatever order, by whoever."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tasks import events
from tasks.errors import LeaseLost
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Claimed, Lease
from tasks.state import TRANSITIONS, FailureReason, JobState
from tests.conftest import Hub
from tests.integration.hub.support import (
    finish,
    history,
    messages,
    progress,
    run_out,
    submit,
    try_claim,
)

pytestmark = pytest.mark.integration

RUNS = {JobState.STARTING, JobState.RUNNING, JobState.PAUSED}
ENDS = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED}
MOST_ATTEMPTS = 3
_hub: list[Hub] = []


@dataclass
class Model:
    """What one job's record must say."""

    state: JobState = JobState.QUEUED
    attempt: int = 0
    fence: int = 0
    owner: str = ""
    lost: bool = False
    cancel: bool = False
    events: int = 1
    ended_by: Lease | None = None
    past: list[Lease] = field(default_factory=list)

    def holds(self, lease: Lease) -> bool:
        return self.state in RUNS and (lease.owner, lease.fence) == (self.owner, self.fence)

    def end(self, state: JobState) -> None:
        self.state, self.owner, self.lost = state, "", False

    def requeue(self, *, counts: bool) -> None:
        if self.cancel:
            self.end(JobState.CANCELLED)
        elif counts and self.attempt >= MOST_ATTEMPTS:
            self.end(JobState.FAILED)
        else:
            self.end(JobState.QUEUED)
            self.attempt -= not counts


class Record(RuleBasedStateMachine):
    """One job, several who want it, each of whom may be long out of date."""

    records: Records

    @initialize()
    def begin(self) -> None:
        self.records = _hub[0].records
        self.submit()

    # twice, so that little time is spent with jobs that have ended
    @precondition(lambda self: self.model.state in ENDS and self.after_end > 2)
    @rule()
    def submit_one(self) -> None:
        self.submit()

    @precondition(lambda self: self.model.state in ENDS and self.after_end > 2)
    @rule()
    def submit_another(self) -> None:
        self.submit()

    def submit(self) -> None:
        self.after_end = 0
        self.job_id = submit(self.records, max_attempts=MOST_ATTEMPTS, user_id="ann")
        self.model = Model()

    def lease(self, index: int) -> Lease:
        return self.model.past[-1 - index % len(self.model.past)]

    @rule(owner=st.sampled_from(["a", "b"]), fresh=st.booleans())
    def claim(self, owner: str, fresh: bool) -> None:
        model = self.model
        owner = f"{owner}{uuid.uuid4().hex}" if fresh else owner
        mine = model.state in RUNS and owner == model.owner
        found = try_claim(self.records, self.job_id, owner=owner)
        if mine:
            assert isinstance(found, Claimed)
            assert found.lease.fence == model.fence
        elif model.state in ENDS or (model.state in RUNS and not model.lost):
            assert not isinstance(found, Claimed)
        elif model.cancel:
            assert not isinstance(found, Claimed)
            model.end(JobState.CANCELLED)
            model.events += 1
        elif model.lost and model.attempt >= MOST_ATTEMPTS:
            assert not isinstance(found, Claimed)
            model.end(JobState.FAILED)
            model.events += 1
        else:
            assert isinstance(found, Claimed)
            model.events += model.lost  # one that says that the last attempt was lost
            model.state, model.owner, model.lost = JobState.STARTING, owner, False
            model.attempt, model.fence = model.attempt + 1, model.fence + 1
            assert (found.attempt, found.lease.fence) == (model.attempt, model.fence)
            model.past.append(found.lease)

    @precondition(lambda self: self.model.past)
    @rule(index=st.integers(0, 3), count=st.integers(0, 3), state=st.sampled_from(sorted(RUNS)))
    def publish(self, index: int, count: int, state: JobState) -> None:
        lease, model = self.lease(index), self.model
        said = [tagged(progress(1))] * count
        if not model.holds(lease):
            with pytest.raises(LeaseLost):
                self.records.leases.publish(lease, said, state=state)
        elif state != model.state and state not in TRANSITIONS[model.state]:
            with pytest.raises(ValueError, match="cannot go"):
                self.records.leases.publish(lease, said, state=state)
        else:
            model.events, model.state = model.events + count, state
            assert self.records.leases.publish(lease, said, state=state) == model.events

    @precondition(lambda self: self.model.past)
    @rule(index=st.integers(0, 3))
    def renew(self, index: int) -> None:
        lease = self.lease(index)
        if self.model.holds(lease):
            assert bool(self.records.leases.renew(lease, 60_000).cancel) == self.model.cancel
            self.model.lost = False
        else:
            with pytest.raises(LeaseLost):
                self.records.leases.renew(lease, 60_000)

    @precondition(lambda self: self.model.past)
    @rule(index=st.integers(0, 3), state=st.sampled_from(sorted(ENDS)))
    def finish(self, index: int, state: JobState) -> None:
        lease, model = self.lease(index), self.model
        if model.holds(lease):
            finish(self.records, lease, events.Failed(), state=state)
            model.end(state)
            model.events, model.ended_by = model.events + 1, lease
        elif lease == model.ended_by:
            finish(self.records, lease, events.Failed(), state=state)
        else:
            with pytest.raises(LeaseLost):
                finish(self.records, lease, events.Failed(), state=state)

    @precondition(lambda self: self.model.past)
    @rule(index=st.integers(0, 3), counts=st.booleans(), delay=st.sampled_from([0, 3_600_000]))
    def hand_back(self, index: int, counts: bool, delay: int) -> None:
        lease, model = self.lease(index), self.model

        def say() -> JobState:
            return self.records.leases.requeue(
                lease,
                [tagged(events.Retrying())],
                reason=FailureReason.STALLED,
                message="",
                delay_ms=delay,
                counts=counts,
            )

        if model.holds(lease):
            model.requeue(counts=counts)
            assert say() is model.state
            model.events, model.ended_by = model.events + 1, lease
        elif lease == model.ended_by:
            assert say() is model.state
        else:
            with pytest.raises(LeaseLost):
                say()

    @precondition(lambda self: self.model.state is not JobState.QUEUED or self.model.past)
    @rule()
    def cancel(self) -> None:
        model = self.model
        changed, state = self.records.cancel(self.job_id, "why")
        assert changed == (model.state not in ENDS)
        if model.state is JobState.QUEUED:
            model.end(JobState.CANCELLED)
            model.events += 1
        model.cancel = model.cancel or model.state in RUNS
        assert state is model.state

    @precondition(lambda self: self.model.state in RUNS)
    @rule()
    def lose(self) -> None:
        run_out(self.records, self.job_id)
        self.model.lost = True

    @rule()
    def reap(self) -> None:
        lost = self.model.lost
        assert self.records.upkeep.reap(0).lost == lost
        if lost:
            self.model.requeue(counts=True)
            self.model.events += 1

    @invariant()
    def the_record_is_as_the_model(self) -> None:
        record = self.records.get(self.job_id)
        model = self.model
        assert (record.state, record.attempt, record.fence) == (
            model.state,
            model.attempt,
            model.fence,
        )
        stored = history(self.records, self.job_id)
        assert [one.seq for one in stored] == list(range(1, model.events + 1))
        assert record.seq == model.events
        ends = [one.seq for one in stored if events.is_end(one.event)]
        assert ends == ([model.events] if model.state in ENDS else [])

    @invariant()
    def it_is_in_the_indexes_of_its_state_and_no_other(self) -> None:
        client, keys, state = self.records.client, self.records.keys, self.model.state

        def has(index: str) -> bool:
            return client.zscore(index, self.job_id) is not None

        assert [one for one in JobState if has(keys.by_state(one))] == [state]
        assert [one for one in JobState if has(keys.by_state_and_user(one, "ann"))] == [state]
        assert has(keys.leases) == (state in RUNS)
        assert has(keys.untold) == (state in ENDS)
        waits = has(keys.waiting(self.records.get(self.job_id).queue))
        assert waits + has(keys.delayed) == (state is JobState.QUEUED)
        assert not waits or messages(self.records, self.job_id)
        assert (client.ttl(keys.job(self.job_id)) == -1) == (state not in ENDS)
        self.after_end += state in ENDS

    def teardown(self) -> None:
        self.records.client.flushall()


def test_the_record_is_as_its_model(hub: Hub) -> None:
    _hub[:] = [hub]
    Record.TestCase.settings = settings(
        max_examples=35,
        stateful_step_count=40,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    Record.TestCase().runTest()
