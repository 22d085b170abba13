"""What is printed."""

from __future__ import annotations

import pytest

from tasks import events
from tasks.events import Envelope, Event
from worker.cli.eventlines import lines
from worker.cli.text import columns, duration, safe

pytestmark = pytest.mark.unit


def envelope(event: Event) -> Envelope:
    return Envelope(v=1, job_id="j", attempt=1, seq=1, ts=0.0, node="n", slot="s", event=event)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, déjà vu, 日本", "plain, déjà vu, 日本"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\td"),
        ("\x9b31m", "\\x9b31m"),
        ("left \u202e right", "left \\u202e right"),
    ],
)
def test_a_jobs_words_cannot_drive_a_terminal(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.85, "850 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_columns_line_up() -> None:
    assert columns([("a", "1"), ("long", "2")]) == "a     1\nlong  2"
    assert columns([]) == ""


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (events.Queued(queue="work"), ["queued in work"]),
        (
            events.Admitted(mode="native", why="because"),
            ["admitted: native, no sandbox (because)"],
        ),
        (events.Admitted(mode="docker", sandbox_level=2), ["admitted: docker, full sandbox"]),
        (events.Started(mode="native", devices=("GPU-1",)), ["started: native, GPU-1"]),
        (
            events.Progress(
                epoch=3, total_epochs=20, loss=0.41234, accuracy=0.87, metrics={"f1": 1.0}
            ),
            ["epoch 3/20  loss 0.4123  accuracy 0.87  f1 1"],
        ),
        (events.Progress(loss=0.5, coalesced=7), ["progress  loss 0.5  (7 left out)"]),
        (
            events.Log(lines=("one", "\x1b[1mtwo"), dropped=3),
            ["(3 lines were dropped)", "| one", "| \\x1b[1mtwo"],
        ),
        (
            events.Retrying(reason="stalled", message="silent", delay_seconds=2.0),
            ["retrying: stalled: silent, again in 2.0 s"],
        ),
        (events.Succeeded(result={"metrics": {"loss": 0.25}}), ["succeeded: loss 0.25"]),
        (events.Succeeded(), ["succeeded"]),
        (events.Failed(reason="user_error", message="no\nway"), ["failed: user_error: no\\x0away"]),
        (events.Cancelled(message="by hand"), ["cancelled: by hand"]),
        (events.Rejected(reason="untrusted", message="no"), ["rejected: untrusted: no"]),
        (events.Truncated(from_seq=2, to_seq=9), ["(events 2 to 9 are not kept any more)"]),
        (events.Unknown(said_type="later", fields={"a": 1}), ["later {'a': 1}"]),
        (events.Paused(why="asked"), ["paused (asked)"]),
        (events.Resumed(), ["resumed"]),
        (events.Checkpoint(epoch=4, path="/c/4"), ["checkpoint of epoch 4: /c/4"]),
        (events.Pulling(image="a:b", detail="3 of 4"), ["pulling a:b 3 of 4"]),
        (
            events.Usage(cpu_seconds=1.5, max_rss_mb=99.6, wall_seconds=60),
            ["used 1.5 s of CPU, 100 MiB, in 1 min 00 s"],
        ),
    ],
)
def test_an_event_is_a_line(event: Event, said: list[str]) -> None:
    assert list(lines(envelope(event))) == said
