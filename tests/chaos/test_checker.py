"""The judge finds what is planted; and finds nothing where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import Entry, Expected, Run, Told, check, parse

pytestmark = pytest.mark.unit

TOKEN = 7
LOST_BY_THE_ENGINE = (
    "[the container engine was away when the container ended: the last of its output may be lost]"
)


def entry(what: str, t: int, *, token: int = TOKEN, code: int = 0) -> Entry:
    return Entry(job="a", token=token, what=what, t=t, code=code)


def event(seq: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"seq": seq, "type": kind, **fields}


def good() -> Run:
    """One job in one attempt that did two steps."""
    result = {"metrics": {"token": TOKEN}}
    return Run(
        expected={"a": Expected(ends=frozenset({"succeeded"}))},
        log=[entry("began", 1), entry("step", 2), entry("step", 3), entry("ended", 4)],
        told={
            "a": Told(
                state="succeeded",
                result=result,
                celery="SUCCESS",
                celery_result=result,
                events=[
                    event(1, "queued"),
                    event(2, "log", lines=[f"line {TOKEN} 0"]),
                    event(3, "log", lines=[f"line {TOKEN} 1"]),
                    event(4, "succeeded"),
                ],
            )
        },
    )


def told(run: Run, **changes: Any) -> None:
    run.told = {"a": replace(run.told["a"], **changes)}


def events(run: Run, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = [dict(one) for one in run.told["a"].events]
    change(rows)
    told(run, events=rows)


def log(run: Run, *more: Entry) -> None:
    run.log = [*run.log, *more]


def test_a_run_without_a_fault_is_clean() -> None:
    assert check(good()) == []


def test_an_attempt_that_came_after_the_first_one_s_death_is_no_violation() -> None:
    run = good()
    run.log = [entry("began", -9, token=5), entry("step", -8, token=5), *run.log]
    assert check(run) == []


def without_last_words(run: Run) -> None:
    told(run, result={}, celery_result={})
    events(run, lambda rows: rows[2].update(lines=[LOST_BY_THE_ENGINE]))


def test_what_an_engine_has_lost_and_is_told_of_may_be_missing_from_the_result() -> None:
    run = good()
    without_last_words(run)
    assert check(run) == []
    log(run, entry("began", 9, token=5))
    assert [one.rule for one in check(run)] == ["result"], "it is the last attempt's all the same"


PLANTED: dict[str, tuple[str, Callable[[Run], object]]] = {
    "two attempts at once": (
        "two at once",
        lambda run: log(run, entry("began", 2, token=5), entry("step", 3, token=5)),
    ),
    "a job that saw another at work": ("two at once", lambda run: log(run, entry("twice", 2))),
    "a lost job": ("lost", lambda run: setattr(run, "told", {})),
    "a job that never ends": ("lost", lambda run: told(run, state="running")),
    "a wrong end": (
        "wrong end",
        lambda run: setattr(run, "expected", {"a": Expected(ends=frozenset({"failed"}))}),
    ),
    "two ends": (
        "ended once",
        lambda run: events(run, lambda rows: rows.append(event(5, "failed"))),
    ),
    "no end among the events": ("ended once", lambda run: events(run, lambda rows: rows.pop())),
    "news after the end": (
        "ended once",
        lambda run: events(run, lambda rows: rows.append(event(5, "log"))),
    ),
    "a gap": ("events", lambda run: events(run, lambda rows: rows.pop(1))),
    "an event that came twice": (
        "events",
        lambda run: events(run, lambda rows: rows.insert(1, rows[1])),
    ),
    "a line that was lost": (
        "stream",
        lambda run: events(run, lambda rows: rows[1].update(lines=[])),
    ),
    "the last line lost": (
        "stream",
        lambda run: events(run, lambda rows: rows[2].update(lines=[])),
    ),
    "a line lost in the midst, though an engine was away": (
        "stream",
        lambda run: events(run, lambda rows: rows[1].update(lines=[LOST_BY_THE_ENGINE])),
    ),
    "a line that came twice": (
        "stream",
        lambda run: events(
            run, lambda rows: rows[2].update(lines=[f"line {TOKEN} {n}" for n in (0, 1)])
        ),
    ),
    "a fenced one that still speaks": (
        "stale event",
        lambda run: events(
            run,
            lambda rows: (
                rows[1].update(lines=["line 5 0", f"line {TOKEN} 0"]),
                rows[2].update(lines=["line 5 1", f"line {TOKEN} 1"]),
            ),
        ),
    ),
    "another attempt's result": (
        "result",
        lambda run: told(
            run, result={"metrics": {"token": 5}}, celery_result={"metrics": {"token": 5}}
        ),
    ),
    "a result that names no attempt": (
        "result",
        lambda run: told(run, result={}, celery_result={}),
    ),
    "the result of one that never ended": (
        "result",
        lambda run: setattr(run, "log", [one for one in run.log if one.what != "ended"]),
    ),
    "an attempt after the one that ended it": (
        "result",
        lambda run: log(run, entry("began", 9, token=5)),
    ),
    "Celery says otherwise": ("celery", lambda run: told(run, celery="FAILURE")),
    "Celery never heard": ("celery", lambda run: told(run, celery="")),
    "another result in Celery": ("result", lambda run: told(run, celery_result={})),
    "a process left": ("left behind", lambda run: setattr(run, "left", {"processes": ["4711"]})),
    "a key left": ("left behind", lambda run: setattr(run, "left", {"keys": ["cyxwiz:leases"]})),
    "a job that nobody submitted": ("unknown job", lambda run: setattr(run, "expected", {})),
}


def failed() -> Run:
    """One job whose only attempt did two steps and ended with 1."""
    run = good()
    run.expected = {"a": Expected(ends=frozenset({"failed"}))}
    run.log = [*run.log[:-1], entry("ended", 4, code=1)]
    told(run, state="failed", reason="user_error", result={}, celery="FAILURE", celery_result=None)
    events(run, lambda rows: rows[-1].update(type="failed"))
    return run


def test_a_job_that_failed_as_it_was_meant_to_is_no_violation() -> None:
    assert check(failed()) == []


PLANTED_IN_A_FAILURE: dict[str, tuple[str, Callable[[Run], object]]] = {
    "another reason": ("failure", lambda run: told(run, reason="node_lost")),
    "no attempt at all": ("failure", lambda run: setattr(run, "log", [])),
    "an attempt that never ended": ("failure", lambda run: setattr(run, "log", run.log[:-1])),
    "an attempt that ended well": (
        "failure",
        lambda run: setattr(run, "log", [*run.log[:-1], entry("ended", 4)]),
    ),
    "its last line lost": (
        "stream",
        lambda run: events(run, lambda rows: rows[2].update(lines=[])),
    ),
}


@pytest.mark.parametrize("planted", PLANTED_IN_A_FAILURE)
def test_a_violation_that_is_planted_in_a_failure_is_found(planted: str) -> None:
    rule, plant = PLANTED_IN_A_FAILURE[planted]
    run = failed()
    plant(run)
    assert rule in {one.rule for one in check(run)}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str) -> None:
    rule, plant = PLANTED[planted]
    run = good()
    plant(run)
    assert rule in {one.rule for one in check(run)}


def test_last_words_that_an_engine_lost_are_not_missed() -> None:
    run = good()
    events(run, lambda rows: rows[2].update(lines=[LOST_BY_THE_ENGINE]))
    assert check(run) == []


def test_the_next_of_a_chain_that_failed_is_not_missed() -> None:
    run = good()
    needs = Expected(ends=frozenset({"succeeded"}), needs=("a",))
    run.expected = {**run.expected, "b": needs}
    assert [one.rule for one in check(run)] == ["lost"]
    told(run, state="failed", celery="FAILURE")
    assert "b" not in {one.job for one in check(run)}


def test_a_log_that_a_kill_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = '{"job": "a", "token": 7, "what": "began", "t": 1}'
    assert parse([whole, whole[:20]]) == [entry("began", 1)]
