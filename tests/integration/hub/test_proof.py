"""Followers who want proof, and what others publish on the channel or write into the store."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tasks import events, train
from tasks.errors import Forged, NotSigned
from tasks.events import Event
from tasks.following import follow
from tasks.job_result import JobResult
from tasks.leases import tagged
from tasks.recorded import Claimed
from tasks.roots import TrustRoot
from tasks.seals import Sealer
from tasks.state import JobState
from tasks.trust import SigningKey
from tasks.vouching import PROOF, End, Signer
from tests.conftest import Hub
from tests.integration.hub.support import job_config, progress, submit, try_claim
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

KEY = SigningKey.generate()
ROOT = TrustRoot(nodes={"node-a": (KEY.public,)})
WAIT = 30.0
RESULT = {"loss": 0.25}


class Node:
    """What node-a says of a job, signed."""

    def __init__(self, hub: Hub, job_id: str) -> None:
        claimed = try_claim(hub.records, job_id)
        assert isinstance(claimed, Claimed)
        self._hub = hub
        self._claimed = claimed
        self._signer = Signer(KEY, "node-a", "cpu0")
        self._sealer = Sealer(
            signer=self._signer, job_id=job_id, fence=claimed.lease.fence, attempt=1
        )
        self._batch = 0

    def _sealed(self, *said: Event) -> list[str]:
        self._batch += 1
        return self._sealer.seal([tagged(one) for one in said], self._batch)

    def say(self, *said: Event) -> None:
        self._hub.records.leases.publish(self._claimed.lease, self._sealed(*said))

    def end(self, at: float | None = None, **lies: Any) -> None:
        """``at``: by its clock. ``lies``: what the proof says otherwise than the event."""
        result = RESULT
        end = replace(End(state="succeeded", result=result), **lies)
        self._hub.records.leases.finish(
            self._claimed.lease,
            JobState.SUCCEEDED,
            self._sealed(events.Succeeded(result=result)),
            reason=None,
            message="",
            result=result,
            snapshot={PROOF: self._signer.proof(self._claimed, end, at)},
        )


def test_nothing_that_is_published_by_others_hides_the_end(hub: Hub) -> None:
    job_id = submit(hub.records)
    node = Node(hub, job_id)
    lie = '{"v":1,"job_id":"%s","attempt":1,"seq":%d,"ts":1.0,"node":"","slot":"",%s}'
    heard = []
    with ThreadPoolExecutor(1) as pool:
        found = follow(job_id, settings=hub.settings, timeout=WAIT, trust=ROOT)
        heard.append(next(found))  # queued; it listens by now
        rest = pool.submit(lambda: heard.extend(found))
        for number in range(3):
            for body in ('"type":"queued","queue":"cpu"', '"type":"retrying","reason":"node_lost"'):
                hub.client.publish(hub.keys.events(job_id), lie % (job_id, len(heard) + 1, body))
            node.say(progress(number))
            wait_until(lambda n=number: len(heard) == n + 2, what="what the node said")
        hub.client.publish(
            hub.keys.events(job_id), lie % (job_id, 5, '"type":"queued","queue":"cpu"')
        )
        node.end()
        rest.result(WAIT)
    assert [one.type for one in heard] == ["queued", *["progress"] * 3, "succeeded"]
    assert {one.signed_by for one in heard[1:]} == {"node-a"}


def test_a_job_that_is_over_and_whose_end_was_taken_out_is_not_waited_for(hub: Hub) -> None:
    job_id = submit(hub.records)
    node = Node(hub, job_id)
    node.say(progress(1))
    node.end()
    assert [one.type for one in follow(job_id, settings=hub.settings, trust=ROOT)][-1] == (
        "succeeded"
    )
    ((row, _),) = hub.client.xrevrange(hub.keys.history(job_id), count=1)
    hub.client.xdel(hub.keys.history(job_id), row)
    with pytest.raises(NotSigned, match="its end is not kept among its events"):
        list(follow(job_id, settings=hub.settings, timeout=WAIT, trust=ROOT))


def test_the_end_of_a_configuration_that_nobody_submitted(hub: Hub) -> None:
    job = job_config(command=["echo", "mine"])
    job_id = submit(hub.records, command=["echo", "mine"], job_id=job.job_id)
    how: dict[str, Any] = {"settings": hub.settings, "timeout": WAIT, "trust": ROOT}
    early = follow(job_id, **how, spec=job)  # hears the end as it is published
    next(early)
    spec = str(hub.client.hget(hub.keys.job(job_id), "spec"))
    theirs = json.dumps({**json.loads(spec), "command": ["echo", "theirs"]})
    hub.client.hset(hub.keys.job(job_id), "spec", theirs)
    Node(hub, job_id).end()
    hub.client.hset(hub.keys.job(job_id), "spec", spec)  # nothing is seen of it any more
    for found in (early, follow(job_id, **how, spec=job.digest())):
        with pytest.raises(Forged, match="has run another configuration than was submitted"):
            list(found)
    assert [one.type for one in follow(job_id, **how)] == ["queued", "succeeded"]  # as documented
    with pytest.raises(ValueError, match="trust is needed"):
        next(follow(job_id, settings=hub.settings, spec=job))


def test_the_end_of_the_configuration_that_was_submitted(hub: Hub) -> None:
    job = job_config()
    how: dict[str, Any] = {"settings": hub.settings, "timeout": WAIT, "trust": ROOT, "spec": job}
    job_id = submit(hub.records, job_id=job.job_id)
    early = follow(job_id, **how)
    next(early)
    Node(hub, job_id).end()
    assert [one.signed_by for one in early] == ["node-a"]
    assert [one.type for one in follow(job_id, **how)] == ["queued", "succeeded"]
    hub.client.hdel(hub.keys.job(job_id), PROOF)
    with pytest.raises(NotSigned):
        list(follow(job_id, **how))


def test_an_end_that_is_not_the_one_whose_configuration_is_proven(hub: Hub) -> None:
    job = job_config()
    job_id = submit(hub.records, job_id=job.job_id)
    Node(hub, job_id).end(result={"loss": 0.0})
    with pytest.raises(Forged, match="is not what node node-a has signed"):
        list(follow(job_id, settings=hub.settings, timeout=WAIT, trust=ROOT, spec=job))


def test_the_end_of_an_earlier_job_of_the_same_id(hub: Hub) -> None:
    """Whose record is gone, and whose end somebody writes into that of the new one."""
    config = {"command": ["true"], "job_id": "again-1"}

    def submitted(at: float | None = None) -> JobResult:
        sent: JobResult = train.delay(config)
        Node(hub, sent.id).end(at)
        sent.backend.mark_as_done(sent.id, RESULT)
        return sent

    hour_ago = time.time() - 3600
    first = submitted(hour_ago)
    first.submitted_at = hour_ago - 1
    assert first.get(timeout=WAIT, trust=ROOT) == RESULT
    proof = str(hub.client.hget(hub.keys.job(first.id), PROOF))
    for key in (hub.keys.job, hub.keys.history, hub.keys.tail):
        hub.client.delete(key(first.id))
    again = submitted()
    assert again.prove(ROOT) == "node-a"
    hub.client.hset(hub.keys.job(again.id), PROOF, proof)
    with pytest.raises(Forged, match="before it was submitted here"):
        again.get(timeout=WAIT, trust=ROOT)
    assert train.AsyncResult(again.id).prove(ROOT) == "node-a"  # as documented
