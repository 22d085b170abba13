"""What comes back from a command beside a job, whoever has written it."""

from __future__ import annotations

import pytest

from tasks.errors import ExecFailed, ExecRefused
from tasks.executing import Output, _parse

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ({"t": "out", "s": "stderr", "d": "aGk="}, Output(stream="stderr", data=b"hi")),
        ({"t": "out", "s": "../x", "d": "aGk="}, Output(stream="stdout", data=b"hi")),
        ({"t": "out", "d": "no base64"}, Output(stream="stdout", data=b"")),
        ({"t": "out", "d": "\ud800\u20ac"}, Output(stream="stdout", data=b"")),
        ({"t": "end", "code": "137"}, 137),
        ({"t": "beat"}, None),
        ({"t": "of a later version"}, None),
        ({}, None),
    ],
)
def test_an_entry(entry: dict[str, str], meant: Output | int | None) -> None:
    assert _parse(entry) == meant


@pytest.mark.parametrize("code", ["", "-1", "3.0", "\u0663", "9" * 5000])
def test_an_end_without_a_code_is_a_failure(code: str) -> None:
    with pytest.raises(ExecFailed, match="the reason"):
        _parse({"t": "end", "code": code, "why": "the reason"})


def test_a_refusal() -> None:
    with pytest.raises(ExecRefused, match="the reason"):
        _parse({"t": "refused", "why": "the reason"})
