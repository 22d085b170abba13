"""What an engine says, in any pieces: HTTP, frames, API versions, and how a container ended."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.keeper.engine import Reader
from worker.keeper.frames import Frames
from worker.keeper.verdict import container_verdict
from worker.runtimes.engine.dialect import DOCKER, api_version

pytestmark = pytest.mark.unit


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def read(pieces: list[bytes], *, end: bool = False) -> Reader:
    reader = Reader()
    for piece in pieces:
        reader.feed(piece)
    if end:
        reader.feed(b"")
    return reader


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.lists(st.integers(0, 2000)))
def test_a_chunked_answer_in_any_pieces(parts: list[bytes], places: list[int]) -> None:
    reader = read(cut(chunked(*parts), places))
    assert reader.complete
    assert (reader.status, bytes(reader.body)) == (200, b"".join(parts))


@given(st.binary(max_size=300), st.lists(st.integers(0, 2000)))
def test_an_answer_of_known_length_in_any_pieces(body: bytes, places: list[int]) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
    reader = read(cut(head + body, places))
    assert reader.complete
    assert (reader.status, bytes(reader.body)) == (404, body)


def test_no_content_needs_no_length() -> None:
    assert read([b"HTTP/1.1 204 No Content\r\n\r\n"]).complete


def test_an_upgraded_connection_streams_until_it_ends() -> None:
    head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n"
    reader = read([head + b"some", b"thing"])
    assert not reader.complete
    assert bytes(reader.body) == b"something"
    reader.feed(b"")
    assert reader.complete


@pytest.mark.parametrize(
    "cut_off",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    ],
)
def test_an_answer_that_is_cut_off_is_an_error(cut_off: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        read([cut_off] if cut_off else [], end=True)


@pytest.mark.parametrize(
    "other", [b"-ERR unknown command\r\n\r\n", b"\r\n\r\n", b"SSH-2.0\r\n\r\n"]
)
def test_what_is_no_http_is_an_error(other: bytes) -> None:
    with pytest.raises(OSError, match="no container engine"):
        read([other])


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=200)), max_size=8),
    st.lists(st.integers(0, 4000)),
    st.integers(0, 400),
    st.integers(0, 400),
)
def test_frames_in_any_pieces_give_each_stream_its_own(
    frames: list[tuple[int, bytes]], places: list[int], out: int, err: int
) -> None:
    got: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}
    taken = Frames(lambda stream, data: got[stream].extend(data), (out, err))
    for piece in cut(b"".join(frame(*one) for one in frames), places):
        taken.feed(piece)
    assert taken.whole
    for index, skip in ((0, out), (1, err)):
        whole = b"".join(data for stream, data in frames if stream == index + 1)
        assert bytes(got[index]) == whole[skip:]


def test_a_frame_that_is_cut_off_is_seen() -> None:
    taken = Frames(lambda stream, data: None, (0, 0))
    taken.feed(frame(1, b"whole") + frame(2, b"half")[:-2])
    assert not taken.whole
    with pytest.raises(ValueError, match="kind 9"):
        Frames(lambda stream, data: None, (0, 0)).feed(frame(9, b"x"))


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"),
    [
        ("1.12", "1.41", "1.41"),
        ("1.24", "1.47", "1.41"),
        ("1.44", "1.52", "1.44"),
        ("1.12", "1.39", None),
        ("1.60", "1.70", None),
    ],
)
def test_the_api_version(oldest: str, newest: str, spoken: str | None) -> None:
    assert api_version(DOCKER, oldest, newest) == spoken


def ended(status: int, **differs: Any) -> dict[str, Any]:
    state = {"ExitCode": status, "OOMKilled": differs.pop("flag", False)}
    state["Error"] = differs.pop("engine_says", "")
    given: dict[str, Any] = {
        "state": state,
        "cause": None,
        "said": b"",
        "program": "/nowhere",
        "oom_kills": 0,
        "peak_mb": 10.0,
        "memory_mb": 100,
        "cpu_seconds": 1.0,
        "wall_seconds": 2.0,
    }
    return dict(container_verdict(**{**given, **differs}))


@pytest.mark.parametrize(
    ("status", "code", "number"),
    [
        (0, 0, None),
        (3, 3, None),
        (255, 255, None),
        (137, None, 9),
        (139, None, 11),
        (128, 128, None),
    ],
)
def test_exit_code_or_signal(status: int, code: int | None, number: int | None) -> None:
    verdict = ended(status)
    assert (verdict["code"], verdict["signal"], verdict["oom"]) == (code, number, False)


@pytest.mark.parametrize(
    ("differs", "oom"),
    [
        ({"flag": True}, True),
        ({"oom_kills": 1}, True),
        ({"peak_mb": 99.5}, True),
        ({"peak_mb": 99.5, "cause": "requested"}, False),
        ({"peak_mb": 99.5, "memory_mb": 0}, False),
        ({}, False),
    ],
)
def test_out_of_memory_rests_on_more_than_one_piece_of_evidence(
    differs: dict[str, Any], oom: bool
) -> None:
    assert ended(137, **differs)["oom"] is oom


def test_a_full_memory_alone_is_no_fault() -> None:
    assert ended(0, peak_mb=100.0)["oom"] is False
    assert ended(1, peak_mb=100.0)["oom"] is False


def test_a_program_that_cannot_be_executed_is_told_by_the_init() -> None:
    said = b"[FATAL tini (7)] exec /nowhere failed: No such file or directory\n"
    verdict = ended(127, said=said)
    assert verdict["error"] == "cannot execute /nowhere: No such file or directory"
    assert verdict["code"] is None
    assert ended(1, said=said)["error"] == ""
    said = b"ERROR (catatonit:6): failed to exec pid1: No such file or directory\n"
    assert ended(1, said=said)["error"] == "cannot execute /nowhere: No such file or directory"
    assert ended(127, said=said)["error"] == ""
    assert ended(127, engine_says="exec: no such file")["error"] == "exec: no such file"


def test_an_end_that_nobody_knows_is_the_engines() -> None:
    assert ended(0, state=None)["cause"] == "engine"
    assert ended(0, state=None, cause="fenced")["cause"] == "fenced"
    assert json.dumps(ended(0, state=None))
