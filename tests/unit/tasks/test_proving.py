"""Signed events: what a node seals, and whoever tampers with it on its way to a follower."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tasks.enrolment import enrol
from tasks.errors import Forged, NodeUntrusted, NotSigned, Unproven
from tasks.events import (
    Admitted,
    Cancelled,
    Envelope,
    Event,
    Log,
    Progress,
    Queued,
    Resumed,
    Retrying,
    Started,
    Succeeded,
    Truncated,
    Usage,
    to_json,
)
from tasks.leases import tagged
from tasks.proving import Checker
from tasks.roots import TrustRoot
from tasks.seals import BATCH, RESTORED, Sealer, statement
from tasks.sequence import Sequence as Ordered
from tasks.trust import SigningKey, base64_of
from tasks.vouching import Signer

pytestmark = pytest.mark.unit

OPERATOR, NODE, OTHER = (SigningKey.generate() for _ in range(3))


def signer(key: SigningKey = NODE, node: str = "node-a") -> Signer:
    import time

    certificate = enrol(node, key.public, OPERATOR, now=time.time() - 60).to_json()
    return Signer(key, node, "cpu0", certificate)


ROOT = TrustRoot(operators=(OPERATOR.public,))


class Hub:
    """What Redis does with events: it numbers them, and keeps those of the tail for a while."""

    def __init__(self, job_id: str = "job-1") -> None:
        self.job_id = job_id
        self.seq = 0
        self.stored: dict[int, str] = {}
        self.batches: list[str] = []

    def emit(self, bodies: Sequence[str], attempt: int = 1, node: str = "node-a") -> None:
        said = []
        for body in bodies:
            self.seq += 1
            slot = "cpu0" if node else ""
            head = f'{{"v":1,"job_id":{json.dumps(self.job_id)},"attempt":{attempt},"seq":'
            rest = f'{self.seq},"ts":1718000000.125,"node":"{node}","slot":"{slot}",'
            self.stored[self.seq] = head + rest + body[2:]
            said.append(self.stored[self.seq])
        self.batches.append("\n".join(said))

    def queued(self) -> None:
        self.emit([tagged(Queued(queue="cpu"))], attempt=0, node="")

    def read(self, root: TrustRoot = ROOT) -> list[Envelope]:
        """As a follower does that comes late."""
        ordered = Ordered(self.job_id, Checker(self.job_id, root))
        return ordered.caught_up(self.stored.values(), self.seq)

    def heard(self, live: Ordered, frm: int = 0) -> list[Envelope]:
        """As a follower does that hears each batch, and looks at what is stored by then."""
        out: list[Envelope] = []
        for text in self.batches[frm:]:
            found = live.live(text)
            if found is None:
                seq = json.loads(text.split("\n")[-1])["seq"]
                there = [one for number, one in self.stored.items() if number <= seq]
                found = live.caught_up(there, seq)
            out += found
        return out

    def edit(self, seq: int, /, **changes: Any) -> None:
        found = json.loads(self.stored[seq])
        self.stored[seq] = json.dumps({**found, **changes}, separators=(",", ":"))


def sealer(
    *, fence: int = 1, attempt: int = 1, by: Signer | None = None, job: str = "job-1"
) -> Sealer:
    return Sealer(signer=by or signer(), job_id=job, fence=fence, attempt=attempt)


def bodies(*events: Event) -> list[str]:
    return [tagged(one) for one in events]


def progress(epoch: int) -> Progress:
    return Progress(epoch=epoch, total_epochs=9, loss=0.1 + epoch, metrics={"f": 1e-7})


BATCHES: list[list[Event]] = [
    [Admitted(mode="native", why="it may"), Started(mode="native")],
    [progress(1), Log(lines=("a \u00e9\ud800 \x7f", "")), progress(2)],
    [progress(3), Usage(cpu_seconds=0.1), progress(4)],
    [Succeeded(result={"loss": 0.25, "n": 2**60, "x": [1, None, True]})],
]


def honest(job: str = "job-1") -> Hub:
    """1 queued, 2 admitted, 3 started, 4 progress, 5 log, 6 progress, 7 progress, 8 usage,
    9 progress, 10 succeeded."""
    hub, one = Hub(job), sealer(job=job)
    hub.queued()
    for number, events in enumerate(BATCHES, 1):
        hub.emit(one.seal(bodies(*events), number))
    return hub


def test_what_a_node_says_is_proven_and_what_none_says_is_not_called_signed() -> None:
    hub = honest()
    found = hub.read()
    assert [one.event for one in found[1:]] == [one for batch in BATCHES for one in batch]
    assert [one.signed_by for one in found] == ["", *["node-a"] * 9]
    live = Ordered("job-1", Checker("job-1", ROOT))
    assert hub.heard(live) == found
    assert live.ended
    assert json.loads(to_json(found[3]))["signed_by"] == "node-a"


def test_whoever_asks_for_no_proof_sees_what_they_saw_before() -> None:
    plain = Ordered("job-1").caught_up(honest().stored.values(), 10)
    assert [one.event for one in plain[1:]] == [one for batch in BATCHES for one in batch]
    assert "seal" not in to_json(plain[3])


@pytest.mark.parametrize("gone", [(4,), (4, 5), (4, 5, 6), (4, 5, 6, 7), (4, 5, 6, 7, 9)])
def test_what_the_tail_has_dropped_is_said_and_the_rest_is_proven(gone: tuple[int, ...]) -> None:
    hub = honest()
    for seq in gone:
        del hub.stored[seq]
    found = hub.read()
    there = [one.seq for one in found if not isinstance(one.event, Truncated)]
    assert there == [seq for seq in range(1, 11) if seq not in gone]
    said = {
        seq
        for one in found
        if isinstance(one.event, Truncated)
        for seq in range(one.event.from_seq, one.event.to_seq + 1)
    }
    assert said == set(gone)


def swap(hub: Hub) -> None:
    one, two = json.loads(hub.stored[4]), json.loads(hub.stored[6])
    hub.stored[4] = json.dumps({**two, "seq": 4}, separators=(",", ":"))
    hub.stored[6] = json.dumps({**one, "seq": 6}, separators=(",", ":"))


def drop_and_renumber(hub: Hub) -> None:
    """The whole second batch."""
    for seq in (4, 5, 6):
        del hub.stored[seq]
    moved = {seq: hub.stored.pop(seq) for seq in (7, 8, 9, 10)}
    for seq, text in moved.items():
        hub.stored[seq - 3] = text
        hub.edit(seq - 3, seq=seq - 3)
    hub.seq = 7


def say_again(hub: Hub) -> None:
    """The second batch, after the third."""
    end = json.loads(hub.stored.pop(10))
    for seq in (4, 5, 6):
        again = json.loads(hub.stored[seq])
        hub.stored[seq + 6] = json.dumps({**again, "seq": seq + 6}, separators=(",", ":"))
    hub.stored[13] = json.dumps({**end, "seq": 13}, separators=(",", ":"))
    hub.seq = 13


def put_in(hub: Hub) -> None:
    """An event of somebody's, before a batch."""
    later = {seq: json.loads(hub.stored.pop(seq)) for seq in range(4, 11)}
    hub.stored[4] = json.dumps({**later[4], "loss": 0.0}, separators=(",", ":"))
    for seq, found in later.items():
        hub.stored[seq + 1] = json.dumps({**found, "seq": seq + 1}, separators=(",", ":"))
    hub.seq = 11


def of_another_job(hub: Hub) -> None:
    hub.stored[10] = json.dumps(
        {**json.loads(honest("job-2").stored[10]), "job_id": "job-1"}, separators=(",", ":")
    )


def by_another_node(hub: Hub) -> None:
    """Which is enrolled, too, but under its own name."""
    other = sealer(by=signer(OTHER, "node-b"))
    (body,) = other.seal(bodies(Succeeded(result={"loss": 0.0})), 4)
    hub.seq = 9
    hub.emit([body])


def under_a_stolen_name(hub: Hub) -> None:
    (body,) = sealer(by=Signer(OTHER, "node-a", "cpu0")).seal(bodies(*BATCHES[3]), 4)
    hub.seq = 9
    hub.emit([body])


def unsealed(hub: Hub) -> None:
    hub.seq = 9
    hub.emit(bodies(*BATCHES[3]))


def unsealed_log(hub: Hub) -> None:
    hub.seq = 9
    hub.emit(bodies(Log(lines=("trust me",))))


def cancelled_in_the_queue(hub: Hub) -> None:
    hub.stored = {1: hub.stored[1]}
    hub.seq = 1
    hub.emit(bodies(Cancelled(message="mine")), attempt=0, node="")


def of_a_later_version(hub: Hub) -> None:
    seal = json.loads(hub.stored[10])["seal"]
    hub.edit(10, seal={**seal, "v": 2})


def seal_of_rubbish(hub: Hub) -> None:
    seal = json.loads(hub.stored[10])["seal"]
    hub.edit(10, seal={**seal, "signature": [], "digests": {"a": [[]]}})


@pytest.mark.parametrize(
    ("attack", "error", "what"),
    [
        (lambda hub: hub.edit(4, loss=0.0), Forged, "event 4 .* is not what node node-a has"),
        (lambda hub: hub.edit(10, result={"loss": 0.0}), Forged, "event 10"),
        (lambda hub: hub.edit(10, node="node-b"), NodeUntrusted, "enrolment of node-a"),
        (lambda hub: hub.edit(10, slot="cpu7"), Forged, "has a signature that is not"),
        (lambda hub: hub.edit(10, attempt=2), Forged, "has a signature that is not"),
        (lambda hub: hub.edit(4, attempt=2), Forged, "event 4"),
        (swap, Forged, "event 4"),
        (drop_and_renumber, Forged, "follows others that were taken out"),
        (say_again, Forged, "was said before"),
        (put_in, Forged, "event 4"),
        (of_another_job, Forged, "has a signature that is not"),
        (by_another_node, NodeUntrusted, "enrolment of node-b"),
        (under_a_stolen_name, NodeUntrusted, "shows no enrolment"),
        (unsealed, NotSigned, r"its end \(succeeded\) is not signed"),
        (unsealed_log, NotSigned, r"event 10 \(log\) is not signed"),
        (cancelled_in_the_queue, NotSigned, "cancelled or expired in the queue"),
        (of_a_later_version, NotSigned, "signed in version 2"),
        (seal_of_rubbish, Forged, "has a signature that is not"),
        (lambda hub: hub.edit(10, seal="x"), NotSigned, "is not signed"),
    ],
)
def test_whoever_tampers_is_found_out(
    attack: Callable[[Hub], None], error: type[Unproven], what: str
) -> None:
    hub = honest()
    attack(hub)
    with pytest.raises(error, match=what):
        hub.read()


def test_a_forged_message_on_the_channel_does_not_end_a_follower() -> None:
    """Anybody may publish; what is stored decides."""
    hub = honest()
    live = Ordered("job-1", Checker("job-1", ROOT))
    assert [one.seq for one in live.caught_up([hub.stored[1]], 1)] == [1]
    forged = json.dumps({**json.loads(hub.stored[3]), "seq": 2}, separators=(",", ":"))
    assert live.live(forged) is None
    twice = f"{hub.batches[1]}\n{hub.stored[2]}".replace("it may", "it may not", 1)
    assert live.live(twice) is None
    assert len(live.caught_up(hub.stored.values(), hub.seq)) == 9


@pytest.mark.parametrize(
    "event", [Queued(queue="cpu"), Retrying(reason="node_lost", message="lost")]
)
def test_what_no_node_says_takes_no_genuine_events_number(event: Event) -> None:
    """Published with the number of the event that is next, by whoever may publish."""
    hub = honest()
    live = Ordered("job-1", Checker("job-1", ROOT))
    live.caught_up([hub.stored[1]], 1)
    for batch in hub.batches[1:]:
        before, after = live.last, live.last + batch.count("\n") + 1
        liar = Hub()
        for liar.seq in (before, after):
            liar.emit(bodies(event), attempt=0, node="")
        assert live.live(liar.batches[0]) is None
        assert live.live(f"{batch}\n{liar.batches[1]}") is None
        assert live.last == before
        assert live.live(batch)
    assert live.ended


def test_a_job_that_is_over_and_whose_end_is_gone() -> None:
    hub = honest()
    end = hub.stored.pop(10)
    plain = Ordered("job-1").caught_up(hub.stored.values(), 10, over=True)
    assert isinstance(plain[-1].event, Truncated)
    live = Ordered("job-1", Checker("job-1", ROOT))
    assert len(live.caught_up(hub.stored.values(), 9)) == 9
    with pytest.raises(NotSigned, match="its end is not kept"):
        live.caught_up([], 10, over=True)
    late = Ordered("job-1", Checker("job-1", ROOT))
    assert late.caught_up([*hub.stored.values(), end], 10, over=True)[-1].type == "succeeded"


def test_an_attempt_follows_another_and_none_comes_back() -> None:
    hub, first = Hub(), sealer()
    hub.queued()
    hub.emit(first.seal(bodies(Admitted(mode="native")), 1))
    hub.emit(bodies(Retrying(reason="node_lost", message="lost")))  # the reaper's word
    second = sealer(fence=2, attempt=2, by=signer(OTHER, "node-b"))
    hub.emit(second.seal(bodies(Admitted(mode="native")), 1), attempt=2, node="node-b")
    assert [one.signed_by for one in hub.read()] == ["", "node-a", "", "node-b"]
    hub.emit(first.seal(bodies(Succeeded(result={})), 2))  # it thinks that it still has the job
    with pytest.raises(Forged, match="of an earlier attempt"):
        hub.read()


@pytest.mark.parametrize("kind", [BATCH, RESTORED, "other", None, {}, ["batch"]])
@pytest.mark.parametrize("name", ["fence", "batch", "part", "parts", "digests", "kind"])
@pytest.mark.parametrize("value", [None, "1", 1.0, True, -1, 2**53 + 1, [], {}, "none"])
def test_a_node_that_signs_no_numbers_is_a_forger(kind: object, name: str, value: object) -> None:
    """It is of the trust root, and its signature is good."""
    good, hub = sealer(), Hub()
    hub.queued()
    (body,) = good.seal(bodies(progress(1)), 1)
    plain, _, rest = body.rpartition(',"seal":')
    seal = {**json.loads(rest[:-1]), "kind": kind, name: value}
    if value == "none":
        del seal[name]
    place = (good.signer.node, good.signer.slot, good.attempt)
    seal["signature"] = base64_of(good.signer.key.sign(statement("job-1", place, seal)))
    for number in (2, 3):
        hub.emit([f'{plain},"seal":{json.dumps(seal)}}}'] if number == 2 else [body])
    with pytest.raises(Unproven):
        hub.read()
    assert Ordered("job-1", Checker("job-1", ROOT)).live(hub.batches[1]) is None


def test_a_lie_about_a_retry_is_found_out() -> None:
    hub = Hub()
    hub.queued()
    hub.emit(bodies(Retrying(reason="user_error", message="nobody said so")))
    with pytest.raises(NotSigned):
        hub.read()


@pytest.mark.parametrize("heard", [False, True])
def test_a_record_that_was_lost_and_written_again(heard: bool) -> None:
    """The batch that was under way comes after it; if it was heard before, it is not said twice."""
    hub, one = Hub(), sealer()
    live = Ordered("job-1", Checker("job-1", ROOT))
    hub.queued()
    hub.emit(one.seal(bodies(Admitted(mode="native")), 1))
    if heard:
        hub.emit(one.seal(bodies(progress(1)), 2))
    hub.emit(one.seal(bodies(Resumed(why="lost")), 1, RESTORED))
    hub.emit(one.seal(bodies(progress(1)), 2))
    hub.emit(one.seal(bodies(progress(2)), 3))
    found = hub.heard(live)
    epochs = [one.event.epoch for one in found if isinstance(one.event, Progress)]
    assert epochs == [1, 2]
    hub.emit(one.seal(bodies(Resumed(why="lost")), 1, RESTORED))  # said again
    assert live.live(hub.batches[-1]) is None
    with pytest.raises(Forged, match="was said before"):
        live.caught_up(hub.stored.values(), hub.seq)
