"""The decoder takes whatever bytes a job prints: it never raises, and what it keeps is bounded."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.events import Checkpoint, Event, Log, Progress, encode
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder
from worker.stream.lines import MOST_LINE, LineBuffer, text_of

pytestmark = pytest.mark.unit

JOB = "job-1"
MB = 1 << 20


def decode(*parts: bytes, stream: Stream = Stream.STDOUT) -> tuple[Decoder, list[Event]]:
    """Decode what arrives in these parts, and then ends."""
    decoder, found, offset = Decoder(JOB, 10), list[Event](), 0
    for part in parts:
        chunk = Chunk(stream=stream, offset=offset, data=part)
        found += [said.event for said in decoder.feed(chunk)]
        offset += len(part)
    return decoder, found + [said.event for said in decoder.flush()]


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def logged(found: list[Event]) -> list[str]:
    return [text for event in found if isinstance(event, Log) for text in event.lines]


# what is right


def test_progress() -> None:
    said = line(type="progress", job_id=JOB, epoch=3, total_epochs=6, loss=0.5, accuracy=1, lr=0.1)
    decoder, found = decode(said)
    assert found == [
        Progress(
            epoch=3,
            total_epochs=6,
            progress=0.5,
            loss=0.5,
            accuracy=1,
            metrics={"lr": 0.1},
            line=said.decode().strip(),
        )
    ]
    assert decoder.progress == found[0]


def test_progress_without_a_total_is_of_the_jobs_epochs() -> None:
    _, found = decode(line(type="progress", epoch=5))
    assert isinstance(found[0], Progress)
    assert (found[0].total_epochs, found[0].progress) == (10, 0.5)


def test_an_epoch_beyond_the_total_is_all_of_it() -> None:
    _, found = decode(line(type="progress", epoch=50))
    assert isinstance(found[0], Progress)
    assert found[0].progress == 1.0


def test_a_checkpoint() -> None:
    _, found = decode(line(type="checkpoint", epoch=2, path="/job/checkpoints/2", sha256="ab"))
    assert found == [Checkpoint(epoch=2, path="/job/checkpoints/2", sha256="ab")]


def test_completion_is_no_event_and_the_last_one_counts() -> None:
    done = {"type": "complete", "success": True, "model_path": "/job/output/m"}
    decoder, found = decode(line(**done), line(**{**done, "success": False, "error": "late"}))
    assert found == []
    assert decoder.completion is not None
    assert (decoder.completion.success, decoder.completion.error) == (False, "late")


def test_the_metrics_of_a_completion() -> None:
    metrics = {"loss": 0.1, "accuracy": 0.9, "f1": 0.8, "bad": float("nan"), "text": "x"}
    decoder, _ = decode(line(type="complete", success=True, metrics=metrics))
    assert decoder.completion is not None
    assert decoder.completion.metrics == {"loss": 0.1, "accuracy": 0.9, "f1": 0.8}


def test_other_lines_are_log_in_order_with_the_events_between_them() -> None:
    _, found = decode(b"one\ntwo\n" + line(type="progress", epoch=1) + b"three\n\nfour")
    assert [one.type for one in found] == ["log", "progress", "log", "log"]
    assert logged(found) == ["one", "two", "three", "four"]


def test_stderr_is_never_a_message() -> None:
    said = line(type="complete", success=True) + line(type="progress", epoch=1)
    decoder, found = decode(said, stream=Stream.STDERR)
    assert decoder.completion is None
    assert [one.type for one in found] == ["log"]
    assert isinstance(found[0], Log)
    assert found[0].stream == "stderr"


# what is not


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_left_out_and_the_epoch_counts(word: str) -> None:
    said = f'{{"type":"progress","epoch":1,"loss":{word},"lr":{word},"x":1}}\n'
    _, found = decode(said.encode())
    assert isinstance(found[0], Progress)
    assert (found[0].loss, found[0].metrics) == (None, {"x": 1})


@pytest.mark.parametrize(
    "said",
    [
        '{"type":"progress"}',
        '{"type":"progress","epoch":-1}',
        '{"type":"progress","epoch":1.5}',
        '{"type":"progress","epoch":true}',
        '{"type":"progress","epoch":"1"}',
        '{"type":"progress","epoch":NaN}',
        '{"type":"progress","epoch":1,"total_epochs":0}',
        '{"type":"progress","epoch":99999999999999999999}',
        '{"type":"progress","epoch":' + "9" * 5000 + "}",
        '{"type":"checkpoint","epoch":-3}',
        '{"type":"complete","success":"true"}',
        '{"type":"complete"}',
        '{"type":["progress"],"epoch":1}',
        '{"type":null}',
        '{"type":"succeeded"}',
        '{"type":"progress","epoch":1',
        "{}",
        '[{"type":"progress","epoch":1}]',
        "[" * 5000,
        '{"a":' * 1500,
    ],
)
def test_a_line_that_is_not_right_in_every_field_is_log(said: str) -> None:
    decoder, found = decode(said.encode() + b"\n")
    assert logged(found) == [said]
    assert decoder.completion is None
    assert decoder.progress is None


def test_huge_integers_are_no_metrics() -> None:
    _, found = decode(b'{"type":"progress","epoch":1,"big":' + b"9" * 4000 + b',"ok":2}\n')
    assert isinstance(found[0], Progress)
    assert found[0].metrics == {"ok": 2}


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    _, found = decode(b'{"type":"log","type":"progress","epoch":1,"epoch":2}\n')
    assert isinstance(found[0], Progress)
    assert found[0].epoch == 2


@pytest.mark.parametrize("kind", ["progress", "complete", "checkpoint"])
@pytest.mark.parametrize("claimed", ["job-2", "", None, 7, ["job-1"], "\x1b[31mjob-1"])
def test_a_line_in_the_name_of_another_job_is_log_that_says_so(kind: str, claimed: object) -> None:
    decoder, found = decode(line(type=kind, job_id=claimed, epoch=1, success=True))
    assert decoder.completion is None
    assert decoder.progress is None
    (said,) = logged(found)
    assert said.startswith("[claims to be job ")
    assert "\x1b" not in said


def test_10_mb_without_a_newline() -> None:
    parts = [b"x" * 65536] * 160
    decoder, found = decode(*parts, b"\nafter\n")
    first, after = logged(found)
    assert (first[:3], after) == ("xxx", "after")
    assert first.endswith(f"…[{10 * MB - MOST_LINE} bytes cut]")
    assert len(first) < MOST_LINE + 40
    assert decoder.consumed(Stream.STDOUT) == 10 * MB + 7


def test_a_message_that_was_cut_is_not_believed() -> None:
    said = b'{"type":"complete","success":true,"x":"' + b" " * MOST_LINE + b'"}\n'
    decoder, found = decode(said)
    assert decoder.completion is None
    assert "bytes cut]" in logged(found)[0]


def test_many_metrics_and_long_names_are_bounded() -> None:
    many = {f"m{number}": number for number in range(200)}
    _, found = decode(line(type="progress", epoch=1, **{"n" * 65: 1}, **many))
    assert isinstance(found[0], Progress)
    assert list(found[0].metrics) == [f"m{number}" for number in range(64)]


def test_texts_are_bounded() -> None:
    decoder, _ = decode(line(type="complete", success=False, error="x" * 5000, model_path=3))
    assert decoder.completion is not None
    assert (len(decoder.completion.error), decoder.completion.model_path) == (1024, "")


def test_a_flood_of_lines_is_told_in_bounded_events() -> None:
    _, found = decode(b"\n".join([b"y"] * 1000))
    assert [len(one.lines) for one in found if isinstance(one, Log)] == [200] * 4 + [199, 1]
    _, found = decode((b"z" * 8000 + b"\n") * 100)
    assert max(len("".join(one.lines)) for one in found if isinstance(one, Log)) < 80_000


def test_the_tail_for_messages() -> None:
    decoder, _ = decode(b"\n".join(b"line %d" % number for number in range(50)))
    assert decoder.tail.startswith("line 30 | ")
    assert decoder.tail.endswith("line 49")
    decoder, _ = decode((b"q" * 5000 + b"\n") * 50)
    assert len(decoder.tail) == 1000


def test_signs_of_a_lack_of_memory() -> None:
    decoder, _ = decode(b"RuntimeError: CUDA out of memory. Tried to\n", stream=Stream.STDERR)
    assert (decoder.cuda_oom_seen, decoder.memory_error_seen) == (True, False)
    decoder, _ = decode(b"MemoryError\n", stream=Stream.STDERR)
    assert (decoder.cuda_oom_seen, decoder.memory_error_seen) == (False, True)


# text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        ("é 漢 🙂".encode(), "é 漢 🙂"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\tb", "a\tb"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07shell", "shell"),
        (b"\x1b]8;;http://x\x1b\\link", "link"),
        (b"10%\r50%\r100%", "100%"),
        (b"100%\r", "100%"),
        (b"\r\r", ""),
        (b"a\x00b\x07c\x9b", "abc\ufffd"),
        ("\u202egnp.exe\u2066".encode(), "gnp.exe"),
        ("a\u2028b\x85c".encode(), "abc"),
    ],
)
def test_text_is_plain(raw: bytes, text: str) -> None:
    assert text_of(raw) == text


@given(st.binary(max_size=200))
def test_no_text_has_control_characters(raw: bytes) -> None:
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text_of(raw))


# whatever is printed, in whatever parts


_scraps = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"{",
        b"}",
        b'"',
        b"\xe6\xbc\xa2",
        b"\xff",
        b"\x1b[3",
        b"x" * 5000,
        b'{"type":"progress","epoch":1,"loss":NaN}\n',
        b'{"type":"progress","epoch":' + b"1" * 30 + b"}\n",
        b'{"type":"complete","success":true}\n',
        b'{"type":"complete","success":true,"metrics":{"loss":Infinity,"a":[1]}}\n',
        b'{"type":"checkpoint","path":"\\ud800\\u0000"}\n',
        b'{"job_id":{"a":"\\udfff"},"type":"complete"}\n',
        b'{"type":"progress","epoch":2,"\\ud83d":1,"\\u001b[0m":2}\n',
        b"[" * 3000,
    ]
)


@settings(max_examples=300)
@given(st.lists(_scraps | st.binary(max_size=30), max_size=30), st.sampled_from(list(Stream)))
@example([b"x" * 9000, b"\n" * 3, b"y"], Stream.STDERR)
def test_it_never_raises_and_is_bounded(parts: list[bytes], stream: Stream) -> None:
    decoder, found = decode(*parts, stream=stream)
    assert sum(len(one.lines) for one in found if isinstance(one, Log)) <= decoder.lines
    for event in found:
        text = encode(event)
        assert text.isascii()
        assert json.loads(text, parse_constant=pytest.fail)["type"] == event.type
        if isinstance(event, Progress):
            assert len(event.metrics) <= 64
    assert all(len(text) < MOST_LINE + 300 for text in logged(found))


@given(st.lists(st.binary(min_size=1, max_size=12) | st.just(b"\n"), min_size=1, max_size=20))
def test_it_does_not_matter_where_the_parts_begin(parts: list[bytes]) -> None:
    _, in_parts = decode(*parts)
    _, at_once = decode(b"".join(parts))
    assert logged(in_parts) == logged(at_once)


def test_a_character_in_two_parts() -> None:
    assert logged(decode(b"\xe6\xbc", b"\xa2\n")[1]) == ["漢"]


@given(st.lists(st.binary(max_size=40) | st.just(b"z" * (MOST_LINE + 7)), max_size=12))
def test_what_is_consumed_was_given_out_and_a_successor_goes_on_there(parts: list[bytes]) -> None:
    printed = b"".join(parts)
    buffer, offset, given_out = LineBuffer(), 0, list[bytes]()
    for part in parts:
        given_out += [text for text, _ in buffer.feed(offset, part)]
        offset += len(part)
        assert offset - MOST_LINE <= buffer.consumed <= offset
    rest = printed[buffer.consumed :]
    if not any(len(one) > MOST_LINE for one in printed.split(b"\n")):
        successor = LineBuffer(buffer.consumed)
        after = [text for text, _ in successor.feed(buffer.consumed, rest + b"\n")]
        assert given_out + after == (printed + b"\n").split(b"\n")[:-1]
