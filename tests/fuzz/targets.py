"""What hostile parties feed, one function for each: it takes bytes and must neither raise nor grow.

Shared by the property tests, the coverage-guided fuzzer and the measurement of rates.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks import nodes, vouching
from tasks.enrolment import Enrolment
from tasks.errors import (
    BadSignature,
    InvalidJob,
    KeyUnusable,
    NodeUntrusted,
    UnknownKey,
    Unproven,
    WrongExec,
)
from tasks.events import decode, encode, is_end
from tasks.exec_request import ExecRequest, signer
from tasks.job import JobConfig
from tasks.messages import Unfit, check_message, check_record
from tasks.proving import Checker
from tasks.recorded import NotClaimed
from tasks.roots import TrustRoot
from tasks.seals import BATCH, digest, statement
from tasks.sequence import Sequence
from tasks.state import JobState
from tasks.trust import PublicKey, SigningKey, Stamp, base64_of
from tasks.vouching import End, check_end
from tests.support.ended import RECORD
from worker import orders
from worker.node import cluster_counts
from worker.node.dead_messages import job_of
from worker.node.sightings import Sightings
from worker.runner import tensorfile
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder
from worker.stream.reading import Reading
from worker.verdicts import of_record

_MOST_EVENTS_BYTES: Final = 64 * 1024
_ROOT: Final = TrustRoot(operators=(PublicKey(bytes(range(32))),))
_NODE: Final = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
_NODES: Final = TrustRoot(nodes={"node-a": (_NODE.public,)})
_PLACE: Final = Path(tempfile.mkdtemp(prefix="cyxwiz-fuzz-"))


def decoder(data: bytes) -> None:
    """What a job prints. The first byte says in how many parts it comes."""
    cut = 1 + (data[0] if data else 0)
    found, offset = Decoder("job-1", 10), 0
    for begin in range(0, len(data), cut):
        part = data[begin : begin + cut]
        for said in found.feed(Chunk(stream=Stream.STDOUT, offset=offset, data=part)):
            assert len(encode(said.event)) <= _MOST_EVENTS_BYTES
        offset += len(part)
    for said in found.flush():
        assert len(encode(said.event)) <= _MOST_EVENTS_BYTES
    assert found.consumed(Stream.STDOUT) <= offset


def config(data: bytes) -> None:
    """A job's configuration. What is taken has one form, which is taken again."""
    try:
        job = JobConfig.parse(data)
    except InvalidJob:
        return
    assert JobConfig.parse(job.canonical()).canonical() == job.canonical()


def message(data: bytes) -> None:
    """An entry of a queue, or of kombu's own table."""
    with contextlib.suppress(Unfit):
        check_message(data, ["tasks.train"])
    with contextlib.suppress(Unfit):
        check_record(data)


def event(data: bytes) -> None:
    """What a follower hears, live and from the history."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        decode(text)
    Sequence("job-1").live(text)
    Sequence("job-1").caught_up([text], 3)
    for one in Sequence("job-1", Checker("job-1", _ROOT)).live(text) or ():
        assert not one.signed_by
        assert not is_end(one.event)
    with contextlib.suppress(Unproven):
        Sequence("job-1", Checker("job-1", _ROOT)).caught_up([text], 3)


def capability(data: bytes) -> None:
    """What a node says of itself."""
    text = data.decode("utf-8", "replace")
    nodes._view("node-a", 1.0, 1.0, text, {"cpu0": text[:20]}, nodes.Cordon.parse(text))


def order(data: bytes) -> None:
    """What is said on a job's control channel, and a request for a command in it."""
    with contextlib.suppress(ValueError, WrongExec):
        _, said = orders.parsed(data.decode("utf-8", "replace"))
        ExecRequest.parse(said)
        with contextlib.suppress(BadSignature, UnknownKey):
            signer(said, {})


def stored(data: bytes) -> None:
    """What others may have written for a node to read: messages, marks, a record's fields."""
    text = data.decode("utf-8", "replace")
    job_of(text)
    Sightings.heard(text, 1.0, 1)
    Reading.from_json(text)
    cluster_counts._parsed(text)
    of_record(NotClaimed(why="terminal", state=JobState.SUCCEEDED, result=text))


def checkpoint(data: bytes) -> None:
    """A checkpoint's file: of a job, so nothing of it is unpickled, and sizes are what they are."""
    path = _PLACE / "a.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(tensorfile.NotWhole):
        tensorfile.read(path)


def signature(data: bytes) -> None:
    """A signature, a public key, a trust file, an enrolment, a node's word of an end."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(BadSignature):
        Stamp.parse(text)
    with contextlib.suppress(KeyUnusable):
        PublicKey.parse(text)
    with contextlib.suppress(KeyUnusable):
        TrustRoot.parse(text)
    with contextlib.suppress(NodeUntrusted, ValueError, RecursionError):
        Enrolment.parse(json.loads(text))
    if text:
        try:
            check_end(replace(RECORD, proof=text), End.of(RECORD), _ROOT)
        except Unproven:
            return
        raise AssertionError("nobody has signed that")


def signed(data: bytes) -> None:
    """What a node of the trust root signs, of whatever shape: the seals of two events, and a word
    of the job's end."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(said, dict):
        return
    said = {**said, "key": _NODE.public.key_id}
    plain = {"type": "usage"}
    digests = base64_of(digest(json.dumps(plain, separators=(",", ":"))))
    numbers = {"fence": 1, "batch": 1, "part": 0, "parts": 1}
    seal = {"v": 1, "kind": BATCH, **numbers, "digests": digests, **said}
    told = {"slot": "cpu0", "attempt": 1, "fence": 1, "spec": RECORD.spec_digest, "at": 1}
    proof = {"v": 1, **told, **said, "node": "node-a"}
    end = End.of(RECORD)
    names = ("v", "node", "slot", "attempt", "fence", "spec", "at")
    try:
        seal["signature"] = _signed(statement("job-1", ("node-a", "cpu0", 1), seal))
        over = {name: proof.get(name) for name in names}
        proof["signature"] = _signed(vouching._statement("job-1", over, end))
        head = {"v": 1, "job_id": "job-1", "attempt": 1, "node": "node-a", "slot": "cpu0", "ts": 1}
        texts = [json.dumps({**head, "seq": seq, **plain, "seal": seal}) for seq in (1, 2)]
        proof_text = json.dumps(proof)
    except (ValueError, RecursionError):
        return  # not JSON: no node can sign that
    live = Sequence("job-1", Checker("job-1", _NODES))
    for text in texts:
        live.live(text)
    with contextlib.suppress(Unproven):
        Sequence("job-1", Checker("job-1", _NODES)).caught_up(texts, 3)
    with contextlib.suppress(Unproven):
        assert check_end(replace(RECORD, proof=proof_text), end, _NODES) == "node-a"


def _signed(text: bytes) -> str:
    return base64_of(_NODE.sign(text))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    one.__name__: one
    for one in (
        decoder,
        config,
        message,
        event,
        capability,
        order,
        stored,
        checkpoint,
        signature,
        signed,
    )
}
