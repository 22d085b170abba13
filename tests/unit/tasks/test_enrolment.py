"""Enrolments and trust roots: whose word counts as a node's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.enrolment import Enrolment, enrol
from tasks.errors import KeyUnusable, NodeUntrusted
from tasks.roots import TrustRoot
from tasks.trust import SigningKey

pytestmark = pytest.mark.unit

# the same each time: they are in the names of tests
OPERATOR, NODE, OTHER = (
    SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 2, 3)
)
NOW = 1_800_000_000.0
ID = NODE.public.key_id


def certificate(**changes: Any) -> dict[str, Any]:
    return {**enrol("node-a", NODE.public, OPERATOR, now=NOW).to_json(), **changes}


def root(*lines: str) -> TrustRoot:
    return TrustRoot.parse("\n".join(lines))


def test_a_node_is_known_by_its_line_or_by_an_operators_word() -> None:
    by_line = root(f"node node-a {NODE.public}  # the box in the cellar")
    assert by_line.key_of("node-a", ID, None, NOW).key_id == ID
    by_word = root("", "# ours", f"operator {OPERATOR.public}")
    assert by_word.key_of("node-a", ID, certificate(), NOW + 1000).key_id == ID


@pytest.mark.parametrize(
    ("lines", "shown", "what"),
    [
        ([f"operator {OPERATOR.public}"], None, "shows no enrolment"),
        ([f"operator {OTHER.public}"], certificate(), "is no operator's here"),
        ([f"node node-a {OTHER.public}", f"operator {OPERATOR.public}"], certificate(), "another"),
        ([f"operator {OPERATOR.public}", f"revoked {ID}"], certificate(), "revoked"),
        ([f"node node-a {NODE.public}", f"revoked {NODE.public}"], None, "revoked"),
        (
            [f"operator {OPERATOR.public}", f"revoked {OPERATOR.public}"],
            certificate(),
            "is no operator's here",
        ),
        ([f"operator {OPERATOR.public}"], certificate(not_after=2 * 10**9), "was changed"),
        ([f"operator {OPERATOR.public}"], certificate(v=2), "of version 2"),
        ([f"operator {OPERATOR.public}"], certificate(v=True, signature="*"), "signature"),
        ([f"operator {OPERATOR.public}"], certificate(signature="\u00e9"), "signature"),
        ([f"operator {OPERATOR.public}"], certificate(not_before="1"), "no time"),
        ([f"operator {OPERATOR.public}"], certificate(node="../x"), "node"),
        ([f"operator {OPERATOR.public}"], certificate(by=["x"]), "not of the form"),
        ([f"operator {OPERATOR.public}"], [], "no JSON object"),
        ([f"operator {OPERATOR.public}"], {"v": 1}, "without"),
    ],
)
def test_whoever_else_is_no_node(lines: list[str], shown: object, what: str) -> None:
    with pytest.raises(NodeUntrusted, match=what):
        root(*lines).key_of("node-a", ID, shown, NOW + 1)


def test_an_enrolment_is_of_one_node_and_one_key_for_a_time() -> None:
    trusted = root(f"operator {OPERATOR.public}")
    with pytest.raises(NodeUntrusted, match="shows an enrolment of node-a"):
        trusted.key_of("node-b", ID, certificate(), NOW)
    with pytest.raises(NodeUntrusted, match="shows an enrolment of node-a"):
        trusted.key_of("node-a", OTHER.public.key_id, certificate(), NOW)
    short = enrol("node-a", NODE.public, OPERATOR, now=NOW, lifetime=60).to_json()
    assert trusted.key_of("node-a", ID, short, NOW + 59)
    assert trusted.key_of("node-a", ID, short, NOW - 59)  # clocks differ
    for moment in (NOW - 61, NOW + 61):
        with pytest.raises(NodeUntrusted, match="not good now"):
            trusted.key_of("node-a", ID, short, moment)
    mine = enrol("node-a", OTHER.public, OTHER, now=NOW).to_json()  # a node enrols itself
    with pytest.raises(NodeUntrusted, match="is no operator's"):
        trusted.key_of("node-a", OTHER.public.key_id, mine, NOW)
    assert Enrolment.parse(short).to_json() == short


@pytest.mark.parametrize(
    ("days", "said"),
    [(31, ""), (29, "runs out in 29.0 days"), (0, "in 0.0 days"), (-3, "ran out 3.0 days ago")],
)
def test_an_enrolment_says_that_it_ends(days: float, said: str) -> None:
    found = enrol("node-a", NODE.public, OPERATOR, now=NOW)
    text = found.ending(found.not_after - days * 86400)
    assert bool(text) == bool(said)
    assert said in text


@pytest.mark.parametrize(
    "make",
    [
        lambda: enrol("Node A", NODE.public, OPERATOR, now=NOW),
        lambda: enrol("node-a", NODE.public, OPERATOR, now=NOW, lifetime=1),
    ],
)
def test_what_cannot_be_enrolled(make: Callable[[], Enrolment]) -> None:
    with pytest.raises(KeyUnusable):
        make()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "names no node and no operator"),
        (f"revoked {ID}", "names no node and no operator"),
        (f"\nnode {NODE.public}", "line 2: is none of"),
        ("operator ed25519:AAAA", "line 1: is no public key"),
        (f"operator {OPERATOR.public}\nrevoked 123", "line 2: '123' is no id"),
        ("trust everybody", "line 1: is none of"),
    ],
)
def test_a_wrong_trust_file_is_refused_whole(text: str, what: str) -> None:
    with pytest.raises(KeyUnusable, match=what):
        root(text)


def test_a_trust_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trust"
    path.write_text(f"operator {OPERATOR.public}\n")
    path.chmod(0o644)
    loaded = TrustRoot.of(path)
    assert TrustRoot.of(loaded) is loaded
    path.chmod(0o664)
    with pytest.raises(KeyUnusable, match="others may write to it"):
        TrustRoot.load(path)
    with pytest.raises(KeyUnusable, match="cannot be read"):
        TrustRoot.load(tmp_path / "none")
