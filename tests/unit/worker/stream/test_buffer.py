"""The publisher's buffer: what is kept, what gives way, and how that is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import events
from tasks.events import Checkpoint, Event, Log, Progress
from tasks.state import JobState
from worker.stream.buffer import BATCH, BATCH_CHARS, HIGH, HIGH_CHARS, Buffer, Entry, Stats

pytestmark = pytest.mark.unit


def progress(epoch: int) -> Progress:
    return Progress(epoch=epoch, total_epochs=9)


def full() -> Buffer:
    buffer = Buffer(Stats())
    for _ in range(HIGH):
        buffer.put(Entry(events.Paused()))
    return buffer


def waiting(buffer: Buffer) -> list[Event]:
    return [entry.said() for entry in buffer.take_all()]


def test_below_the_mark_everything_is_kept_in_order() -> None:
    buffer = Buffer(Stats())
    said = [progress(1), Log(lines=("a",)), progress(2), Log(lines=("b",))]
    for event in said:
        buffer.offer(event)
    assert waiting(buffer) == said
    assert buffer.chars == 0


def test_above_it_progress_gives_way_to_newer_progress() -> None:
    buffer = full()
    for epoch in range(5):
        buffer.offer(progress(epoch))
    last = waiting(buffer)[-1]
    assert isinstance(last, Progress)
    assert (last.epoch, last.coalesced) == (4, 4)


def test_above_it_checkpoints_do_too() -> None:
    buffer = full()
    for epoch in range(5):
        buffer.offer(Checkpoint(epoch=epoch))
    assert waiting(buffer)[HIGH:] == [Checkpoint(epoch=4, coalesced=4)]


def test_above_it_the_oldest_lines_of_a_stream_are_dropped() -> None:
    buffer = full()
    for number in range(1_500):
        buffer.offer(Log(stream="stderr" if number % 2 else "stdout", lines=(f"{number}",)))
    for number in range(1_500, 3_000):
        buffer.offer(Log(stream="stdout", lines=(f"{number}",)))
    out, err = waiting(buffer)[HIGH:]
    assert isinstance(out, Log)
    assert isinstance(err, Log)
    assert (out.lines[0], out.lines[-1], out.dropped) == ("2000", "2999", 750 + 500)
    assert (err.lines[0], err.lines[-1], err.dropped) == ("1", "1499", 0)


def test_what_the_node_says_is_never_dropped() -> None:
    buffer = full()
    for _ in range(50):
        buffer.put(Entry(events.Resumed(), JobState.RUNNING))
    assert len(buffer) == HIGH + 50


def test_a_batch_ends_where_the_state_changes_and_is_bounded() -> None:
    buffer = Buffer(Stats())
    buffer.put(Entry(events.Started(), JobState.RUNNING))
    for epoch in range(BATCH + 1):
        buffer.offer(progress(epoch))
    assert [len(buffer.take()) for _ in range(4)] == [1, BATCH, 1, 0]
    for _ in range(3):
        buffer.offer(Log(lines=("x" * (BATCH_CHARS // 2 - 2_000),)))
    assert [len(buffer.take()) for _ in range(3)] == [2, 1, 0]
    buffer.offer(Log(lines=("x" * BATCH_CHARS,)))  # larger than a batch: it goes alone
    assert len(buffer.take()) == 1


_events = st.one_of(
    st.builds(Progress, epoch=st.integers(0, 9), line=st.text("x", max_size=5)),
    st.builds(Checkpoint, path=st.text("x", max_size=5)),
    st.builds(
        Log,
        stream=st.sampled_from(["stdout", "stderr"]),
        lines=st.lists(st.text("x", max_size=5), min_size=1, max_size=3).map(tuple),
    ),
)


@given(st.lists(_events, max_size=40), st.booleans())
def test_all_that_was_offered_is_sent_or_counted_as_dropped(said: list[Event], high: bool) -> None:
    buffer = full() if high else Buffer(Stats())
    for event in said:
        buffer.offer(event)
    sent = waiting(buffer)
    for kind in (Progress, Checkpoint):
        dropped = sum(one.coalesced for one in sent if isinstance(one, kind))
        kept = sum(isinstance(one, kind) for one in sent)
        assert kept + dropped == sum(isinstance(one, kind) for one in said)
    for stream in ("stdout", "stderr"):
        logs = [one for one in sent if isinstance(one, Log) and one.stream == stream]
        lines = [
            line
            for one in said
            if isinstance(one, Log) and one.stream == stream
            for line in one.lines
        ]
        kept_lines = [line for one in logs for line in one.lines]
        assert len(kept_lines) + sum(one.dropped for one in logs) == len(lines)
        assert kept_lines == lines[len(lines) - len(kept_lines) :]


def test_whatever_a_job_prints_little_of_it_waits() -> None:
    buffer = Buffer(Stats())
    line = "x" * 8_000
    for number in range(30_000):
        match number % 4:
            case 0:
                buffer.offer(Log(stream="stdout", lines=(line,) * 8))
            case 1:
                buffer.offer(Log(stream="stderr", lines=(line,) * 8))
            case 2:
                buffer.offer(Checkpoint(epoch=number, path=line))
            case _:
                buffer.offer(Progress(epoch=number, line=line))
        assert buffer.chars < 2 * HIGH_CHARS
    assert len(buffer) < HIGH
