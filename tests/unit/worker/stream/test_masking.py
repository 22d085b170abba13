"""Secrets in what a job prints: wherever the pieces were cut, and however JSON wrote them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from tasks.events import Log, Progress
from worker.runtimes.base import Chunk, Stream
from worker.stream.decoder import Decoder
from worker.stream.lines import MOST_LINE
from worker.stream.masking import LEAST, Mask

TOKEN = "hf_AbCdEf0123456789"
QUOTED = 'pass"word\\with é'
KEY = "-----BEGIN KEY-----\nMIIBVwIBADANBgkqhkiG9w0B\nAQEFAASCAT8\n-----END KEY-----\n"
NUMBER = "4815162342.5"
ALL = (TOKEN, QUOTED, KEY, NUMBER)


def decode(data: bytes, *, size: int = 1 << 16, stream: Stream = Stream.STDOUT) -> Decoder:
    """A decoder that was fed ``data`` in pieces; its events are in ``found``."""
    decoder = Decoder("job-1", 10, mask=Mask(ALL))
    said = []
    for at in range(0, len(data), size):
        said += decoder.feed(Chunk(stream=stream, offset=at, data=data[at : at + size]))
    said += decoder.flush()
    decoder.found = [one.event for one in said]  # type: ignore[attr-defined]
    assert [one.end for one in said] == sorted(one.end for one in said)
    assert not said or len(data) <= said[-1].end <= len(data) + 1
    return decoder


def events(data: bytes, **more: Any) -> list[Any]:
    return list(decode(data, **more).found)  # type: ignore[attr-defined]


def text(data: bytes, **more: Any) -> str:
    decoder = decode(data, **more)
    found = [asdict(one) for one in decoder.found]  # type: ignore[attr-defined]
    return json.dumps([found, decoder.tail, decoder.memory], ensure_ascii=False)


@pytest.mark.parametrize("stream", list(Stream))
@pytest.mark.parametrize("size", [1, 3, 7, 1 << 16])
def test_it_does_not_matter_where_output_is_cut(size: int, stream: Stream) -> None:
    data = f"login with {TOKEN}\n{KEY}and {TOKEN}{TOKEN}; done".encode()
    lines = [line for one in events(data, size=size, stream=stream) for line in one.lines]
    assert lines == ["login with ***", "***", "***", "***", "***", "and ******; done"]


def test_json_is_masked_as_text_and_as_what_it_means() -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in TOKEN)
    said = f'{{"type":"progress","epoch":1,"loss":{NUMBER},"{escaped}":2,"seen":3}}\n'
    (progress,) = events(said.encode())
    assert isinstance(progress, Log)  # a number that is a secret leaves no JSON
    said = f'{{"type":"progress","epoch":1,"loss":0.5,"{escaped}":2,"seen":3}}\n'
    (progress,) = events(said.encode())
    assert isinstance(progress, Progress)
    assert dict(progress.metrics) == {"***": 2, "seen": 3}
    done = {"type": "complete", "success": False, "error": f"no login: {QUOTED}", "metrics": {}}
    for ascii_only in (True, False):
        decoder = decode(json.dumps(done, ensure_ascii=ascii_only).encode())
        assert decoder.completion is not None
        assert decoder.completion.error == "no login: ***"


def test_nothing_of_a_secret_is_left_of_a_line_that_was_cut() -> None:
    for inside in range(1, len(TOKEN)):
        long = b"x" * (MOST_LINE - inside) + TOKEN.encode() + b"y" * 100 + b"\n"
        (log,) = events(long)
        assert TOKEN[: min(inside, 3)] not in log.lines[0]
        assert log.lines[0].rstrip("]").partition("***")[0] == "x" * (MOST_LINE - inside)


def test_control_characters_within_a_secret_do_not_hide_it() -> None:
    half = len(TOKEN) // 2
    data = f"{TOKEN[:half]}\x1b[0m{TOKEN[half:]}\x00\n".encode()
    assert TOKEN not in text(data)
    assert "***" in text(data)


def test_a_short_line_of_a_long_secret_is_no_secret() -> None:
    mask = Mask(["short\n" + "l" * LEAST])
    assert mask.text("short and " + "l" * LEAST) == "short and ***"


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert Mask([TOKEN, f"{TOKEN}-more"]).text(f"a {TOKEN}-more b {TOKEN}") == "a *** b ***"


def test_a_repetitive_secret_and_a_repetitive_line_come_to_an_end() -> None:
    mask = Mask(["a" * 60_000 + "b"])
    line = b"a" * MOST_LINE
    assert mask.line(line, cut=False) == line
    assert mask.line(line, cut=True) == b"***"
