"""The events' codec, and their order as followers get them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import events
from tasks.events import Envelope, Event, Log, Progress, Truncated, Unknown, decode, encode, to_json
from tasks.sequence import Sequence

pytestmark = pytest.mark.unit

KINDS = [kind for kind in get_args(Event) if kind is not Unknown]
_text = st.text(st.characters(codec="utf-8"), max_size=8)
_numbers = st.integers(0, 10**9) | st.floats(allow_nan=False, allow_infinity=False)
_values: dict[str, st.SearchStrategy[Any]] = {
    "str": _text,
    "bool": st.booleans(),
    "int": st.integers(0, 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "float | None": st.none() | _numbers,
    "tuple[str, ...]": st.lists(_text, max_size=3).map(tuple),
    "Mapping[str, float]": st.dictionaries(_text, _numbers, max_size=3),
    "Mapping[str, Any]": st.dictionaries(_text, _numbers | _text | st.none(), max_size=3),
}
_events = st.one_of(
    [
        st.builds(kind, **{one.name: _values[str(one.type)] for one in fields(kind)})
        for kind in KINDS
    ]
)


def envelope(seq: int, event: Event | None = None) -> Envelope:
    return Envelope(
        v=1, job_id="j", attempt=1, seq=seq, ts=1.5, node="n", slot="s", event=event or Log()
    )


@given(_events)
def test_what_is_written_is_read(event: Event) -> None:
    assert encode(event).isascii()
    assert decode(to_json(envelope(3, event))) == envelope(3, event)


@given(_events)
def test_the_codec_says_nothing_twice(event: Event) -> None:
    body = json.loads(encode(event))
    assert body.pop("type") == event.type
    assert body.keys() <= {one.name for one in fields(event)}
    assert not {"v", "job_id", "attempt", "seq", "ts", "node", "slot"} & body.keys()


def test_every_type_has_a_name_of_its_own() -> None:
    assert len({kind.type for kind in KINDS}) == len(KINDS)
    assert [kind.type for kind in KINDS if events.is_end(kind())] == [
        "succeeded",
        "failed",
        "cancelled",
        "rejected",
    ]
    assert {kind.type for kind in KINDS if not events.is_state(kind())} == {
        "fetching",
        "progress",
        "log",
        "checkpoint",
    }


def test_a_type_from_the_future_is_kept_as_it_came() -> None:
    said = {**json.loads(to_json(envelope(1, events.Queued()))), "type": "teleported", "to": "mars"}
    read = decode(json.dumps(said))
    assert read.event == Unknown(said_type="teleported", fields={"to": "mars"})
    assert read.type == "teleported"
    assert json.loads(to_json(read)) == said


def test_a_field_from_the_future_is_left_out() -> None:
    said = {**json.loads(to_json(envelope(1, Progress(epoch=1)))), "mood": "good"}
    assert decode(json.dumps(said)).event == Progress(epoch=1)


def test_nan_has_no_word_in_json() -> None:
    result: Mapping[str, Any] = {"loss": float("nan"), "all": [1.0, float("inf"), {"x": -1e999}]}
    assert json.loads(encode(events.Succeeded(result=result)))["result"] == {
        "loss": None,
        "all": [1.0, None, {"x": None}],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting"),
        ("[]", "JSON object"),
        ('{"v":2}', "of version 2; this reads version 1"),
        ("{}", "of version None"),
        ('{"v":1,"job_id":"j"}', "without 'attempt'"),
        ('{"v":1,"job_id":"j","attempt":[]}', "an event without"),
    ],
)
def test_what_is_no_event(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode(text)


# the order


def texts(*seqs: int, end: int = 0) -> list[str]:
    return [to_json(envelope(seq, events.Succeeded() if seq == end else None)) for seq in seqs]


def seqs(found: list[Envelope] | None) -> list[int] | None:
    return None if found is None else [one.seq for one in found]


def test_live_events_in_order_once_each() -> None:
    sequence = Sequence("j")
    assert seqs(sequence.caught_up(texts(2, 1, 3), 3)) == [1, 2, 3]
    assert seqs(sequence.live("\n".join(texts(2, 3)))) == []
    assert seqs(sequence.live("\n".join(texts(3, 4, 5)))) == [4, 5]
    assert not sequence.ended
    assert seqs(sequence.live("\n".join(texts(6, end=6)))) == [6]
    assert sequence.ended


def test_a_gap_is_told_and_nothing_of_the_message_is_given_out() -> None:
    sequence = Sequence("j")
    assert seqs(sequence.live("\n".join(texts(1, 2, 4)))) is None
    assert seqs(sequence.caught_up(texts(1, 2, 3, 4), 4)) == [1, 2, 3, 4]


@pytest.mark.parametrize("garbage", ["", "hello", '{"v":1}', texts(1)[0] + "\n{"])
def test_what_anybody_may_publish_on_the_channel_does_no_harm(garbage: str) -> None:
    sequence = Sequence("j")
    assert sequence.live(garbage) is None
    assert seqs(sequence.live(texts(1)[0])) == [1]


def test_what_was_dropped_is_said() -> None:
    found = Sequence("j").caught_up(texts(1, 5, 6, 9, end=9), 9)
    assert [one.event for one in found if isinstance(one.event, Truncated)] == [
        Truncated(from_seq=2, to_seq=4),
        Truncated(from_seq=7, to_seq=8),
    ]
    assert seqs(found) == [1, 4, 5, 6, 8, 9]


@pytest.mark.parametrize(("stored", "lost"), [((1, 2), (3, 7)), ((), (1, 7))])
def test_the_newest_may_be_lost_too(stored: tuple[int, ...], lost: tuple[int, int]) -> None:
    sequence = Sequence("j")
    last = sequence.caught_up(texts(*stored), 7)[-1]
    assert last.event == Truncated(from_seq=lost[0], to_seq=lost[1])
    assert last.job_id == "j"
    assert seqs(sequence.live(texts(8)[0])) == [8]


@given(st.data(), st.integers(1, 30))
def test_whatever_is_missed_repeated_or_late(data: st.DataObject, count: int) -> None:
    """A follower that reads the history at each gap gets every event once, in order."""
    sequence = Sequence("j")
    got: list[int] = []
    stored = 0
    for _ in range(data.draw(st.integers(0, 20))):
        first = data.draw(st.integers(1, count))
        last = data.draw(st.integers(first, min(count, first + 5)))
        stored = max(stored, last)
        found = sequence.live("\n".join(texts(*range(first, last + 1), end=count)))
        if found is None:
            found = sequence.caught_up(texts(*range(1, stored + 1), end=count), stored)
        got += [one.seq for one in found]
    got += [one.seq for one in sequence.caught_up(texts(*range(1, count + 1), end=count), count)]
    assert got == list(range(1, count + 1))
    assert sequence.ended
