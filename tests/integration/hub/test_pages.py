"""docs/producers.md does what it says, against a real node; docs/events.md names all there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from tasks import events
from tasks.events import Event, Unknown, decode, is_state
from tasks.keys import Keys
from tasks.state import FailureReason
from tests.conftest import Hub

pytestmark = pytest.mark.integration

DOCS = Path(__file__).parents[3] / "docs"
PRODUCERS = (DOCS / "producers.md").read_text()
EVENTS = (DOCS / "events.md").read_text()
KINDS = [kind for kind in get_args(Event) if kind is not Unknown]


def test_every_example_for_producers_runs(node_hub: Hub) -> None:
    """In the order of the page, as one program."""
    program = re.findall(r"^```python\n(.*?)^```", PRODUCERS, re.MULTILINE | re.DOTALL)
    assert len(program) >= 8
    names: dict[str, Any] = {"__name__": "producers"}
    for text in program:
        exec(compile(text, "docs/producers.md", "exec"), names)
    names["app"].close()


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """A table's rows by the names in their first cells."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
            for name in re.findall(r"`([^`]+)`", first):
                found[name] = rest
    return found


def test_every_type_and_field_is_on_the_page() -> None:
    table = rows(EVENTS, "The types")
    assert table.keys() == {kind.type for kind in KINDS}
    for kind in KINDS:
        said, kept, _ = table[kind.type]
        assert re.findall(r"`(\w+)`", said) == [one.name for one in fields(kind)], kind
        if kind is not events.Truncated:
            assert kept == ("history" if is_state(kind()) else "tail"), kind


def test_the_example_of_an_envelope_is_one() -> None:
    (text,) = re.findall(r"^```json\n(.*?)\n```", EVENTS, re.MULTILINE | re.DOTALL)
    envelope = decode(text)
    assert (envelope.type, envelope.seq) == ("progress", 4)
    head = rows(EVENTS, "The envelope")
    assert head.keys() == {"v", "job_id", "attempt", "seq", "ts", "node", "slot", "type"}


def test_every_key_is_on_the_page() -> None:
    keys = Keys(prefix="")
    made = {
        keys.job("ID"), keys.history("ID"), keys.tail("ID"), keys.events("ID"),
        keys.control("NODE", "ID"),
        keys.leases, keys.delayed, keys.expiring, keys.untold, keys.live, keys.queues, keys.nodes,
        keys.reaper, keys.waiting("QUEUE"), keys.by_state("STATE"), keys.by_user("USER"),
        keys.by_state_and_user("STATE", "USER"), keys.indexed,
        keys.node("NODE"), keys.node_names, keys.serving("QUEUE"), keys.slots("KIND"),
        keys.busy("KIND"), keys.holds("NODE"), keys.counts("NODE"), keys.cordoned,
        keys.orders("NODE"), keys.line("QUEUE"), keys.usage("DAY"), keys.usage_users("DAY"),
        keys.unacked, keys.unacked_index, keys.message_list("QUEUE", 0),
        keys.nonce("NONCE"), keys.put_aside, keys.reaper_seen, keys.exec("TOKEN"),
        keys.cluster_counts, keys.cluster_counts_reader,
        keys.checkpoints, keys.checkpoints_swept("STORE"),
    }  # fmt: skip
    methods = [name for name in vars(Keys) if not name.startswith("_") and name != "prefix"]
    assert len(made) == len(methods)
    assert made <= rows(EVENTS, "Keys").keys()


def test_every_reason_is_on_the_page_with_whether_it_is_tried_again() -> None:
    table = rows(PRODUCERS, "Results and errors")
    for reason in FailureReason:
        assert table[reason][0].startswith("yes" if reason.retryable else "no"), reason
