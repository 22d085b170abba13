"""A node's signed word of an end that is not of the shape that nodes sign."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from tasks import vouching
from tasks.enrolment import enrol
from tasks.errors import Forged, NodeUntrusted
from tasks.recorded import JobRecord
from tasks.roots import TrustRoot
from tasks.trust import SigningKey, base64_of
from tasks.vouching import End, check_end
from tests.support.ended import RECORD

pytestmark = pytest.mark.unit

NODE, OPERATOR = SigningKey.generate(), SigningKey.generate()
ROOT = TrustRoot(nodes={"node-a": (NODE.public,)})
END = End.of(RECORD)


def signed(**changes: Any) -> JobRecord:
    """The record with a proof whose signature is good."""
    said = {"v": 1, "node": "node-a", "slot": "cpu0", "attempt": 1, "fence": 1, "spec": "", "at": 1}
    said = {**said, "spec": RECORD.spec_digest, **changes}
    signature = base64_of(NODE.sign(vouching._statement("job-1", said, END)))
    shown = {name: value for name, value in said.items() if value is not None}
    proof = {**shown, "key": NODE.public.key_id, "signature": signature}
    return replace(RECORD, proof=json.dumps(proof))


def test_as_nodes_sign_it() -> None:
    assert check_end(signed(), END, ROOT) == "node-a"


def test_what_was_signed_outlives_an_enrolment_that_has_run_out() -> None:
    """By a fresh certificate of the same key, in the record; or by a line of the trust file."""
    now, root = time.time(), TrustRoot(operators=(OPERATOR.public,))

    def showing(since: float) -> JobRecord:
        shown = enrol("node-a", NODE.public, OPERATOR, now=since, lifetime=3600).to_json()
        proof = {**json.loads(signed().proof), "certificate": shown}
        return replace(RECORD, proof=json.dumps(proof))

    with pytest.raises(NodeUntrusted, match="it ran out; enrol it again"):
        check_end(showing(now - 7200), END, root)
    assert check_end(showing(now - 60), END, root) == "node-a"
    assert check_end(showing(now - 7200), END, ROOT) == "node-a"


@pytest.mark.parametrize("name", ["fence", "attempt", "spec"])
@pytest.mark.parametrize("value", [None, "1", 1.0, True, -1, 2**63, [], {}])
def test_a_node_that_signs_another_shape_is_a_forger(name: str, value: object) -> None:
    with pytest.raises(Forged, match=r"fence|another configuration"):
        check_end(signed(**{name: value}), END, ROOT)


@pytest.mark.parametrize("at", [None, "1", -1, [], 1, 939])
def test_an_end_from_before_the_job_was_submitted_is_of_an_earlier_one(at: object) -> None:
    with pytest.raises(Forged, match="before it was submitted here"):
        check_end(signed(at=at), END, ROOT, since=1000.0)
    assert check_end(signed(at=at), END, ROOT) == "node-a"  # who does not know when


@pytest.mark.parametrize("at", [940, 1000, 5000])
def test_an_end_from_after_it_is_its_own_whatever_the_clocks_differ_by(at: int) -> None:
    assert check_end(signed(at=at), END, ROOT, since=1000.0) == "node-a"
