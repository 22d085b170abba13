"""What a node's counts say, read back."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tasks.counts import BOUNDS_MS, parse

pytestmark = pytest.mark.unit


def test_the_bounds_are_those_of_the_scripts() -> None:
    text = (files("tasks") / "lua" / "common.lua").read_text("utf-8")
    found = {
        name: tuple(int(number) for number in numbers.split(","))
        for name, numbers in re.findall(r"^  (\w+) = \{([\d, ]+)\},$", text, re.MULTILINE)
    }
    assert found == BOUNDS_MS


def test_counts_are_read() -> None:
    counts = parse(
        {
            "claims": "7",
            "end:succeeded:": "3",
            "end:failed:user_error": "2",
            "retry:engine_error": "1",
            "handed_back:no_device": "1",
            "wait:1": "4",
            "wait:3": "1",
            "wait:11": "2",
            "wait:ms": "90500",
        }
    )
    assert counts.claims == 7
    assert counts.ended == {
        ("succeeded", ""): 3,
        ("failed", "user_error"): 2,
        ("retry", "engine_error"): 1,
        ("handed_back", "no_device"): 1,
    }
    assert counts.wait.buckets[:3] == ((0.1, 4), (0.5, 4), (1.0, 5))
    assert counts.wait.buckets[-1] == (float("inf"), 7)
    assert counts.wait.seconds == 90.5
    assert counts.run.buckets[-1] == (float("inf"), 0)


def test_what_is_garbage_counts_as_nothing() -> None:
    counts = parse({"claims": "many", "wait:ms": "-1", "newer": "5", "end:": "x"})
    assert (counts.claims, counts.wait.seconds, counts.unknown) == (0, 0, ("newer",))
