"""Followers who want proof, and what others publish on the channel or write into the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks import events
from tasks.errors import NotSigned
from tasks.events import Event
from tasks.following import follow
from tasks.record import Claimed, tagged
from tasks.roots import TrustRoot
from tasks.seals import Sealer
from tasks.state import JobState
from tasks.trust import SigningKey
from tasks.vouching import PROOF, End, Signer
from tests.conftest import Hub
from tests.integration.hub.support import progress, submit, try_claim
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

KEY = SigningKey.generate()
ROOT = TrustRoot(nodes={"node-a": (KEY.public,)})
WAIT = 30.0


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
        self._hub.records.publish(self._claimed.lease, self._sealed(*said))

    def end(self) -> None:
        result = {"loss": 0.25}
        end = End(state="succeeded", result=result)
        self._hub.records.finish(
            self._claimed.lease,
            JobState.SUCCEEDED,
            self._sealed(events.Succeeded(result=result)),
            reason=None,
            message="",
            result=result,
            snapshot={PROOF: self._signer.proof(self._claimed, end)},
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
