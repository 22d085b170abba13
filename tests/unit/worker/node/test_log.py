"""Events are lines that programs and people can read."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from worker.node import log

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    logger = logging.getLogger(log.LOGGER)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def said(*, as_json: bool) -> str:
    stream = io.StringIO()
    log.configure(as_json=as_json, stream=stream)
    log.event("slot.ended", slot="cpu0", pid=17, how='exit "3"', killed=[1, 2], log="a\nb")
    return stream.getvalue()


def test_json_lines_hold_the_fields_as_they_are() -> None:
    content = json.loads(said(as_json=True))
    assert content["event"] == "slot.ended"
    assert content["killed"] == [1, 2]
    assert content["how"] == 'exit "3"'
    assert content["level"] == "info"


def test_plain_lines_stay_lines_whatever_the_fields_hold() -> None:
    text = said(as_json=False)
    assert text.count("\n") == 1
    assert r'slot=cpu0 pid=17 how="exit \"3\"" killed=[1, 2] log="a\nb"' in text
