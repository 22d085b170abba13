"""Judges a run by what the jobs wrote themselves, and by what the records say. Pure.

It shares no code with the product: what it is given are the jobs' own log, the raw entries of
Redis and a list of what was found on the hosts afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_ENDS: Final = ("succeeded", "failed", "cancelled", "rejected")
_CELERY: Final = {
    "succeeded": "SUCCESS",
    "failed": "FAILURE",
    "rejected": "FAILURE",
    "cancelled": "REVOKED",
}
_LINE: Final = re.compile(r"line (\d+) (\d+)")
_LAST_WORDS_LOST: Final = "[the container engine was away when the container ended: "


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the jobs' log."""

    job: str
    token: int
    """Of one process of the job: of one attempt."""
    what: str
    """began, step, twice or ended."""
    t: int
    """CLOCK_MONOTONIC of the host, ns."""
    code: int = 0
    """Of an end: the exit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What Redis says of one job."""

    state: str
    """'' if there is no record."""
    result: Mapping[str, Any]
    celery: str
    """The status in Celery's result; '' if there is none."""
    celery_result: Any
    events: Sequence[Mapping[str, Any]]
    """The envelopes of history and tail, in the order of their stream ids."""
    reason: str = ""
    """Of a job that failed."""
    dropped_to: int = 0
    """The tail was trimmed: events up to this seq may be missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """How a job may end."""

    ends: frozenset[str]
    needs: tuple[str, ...] = ()
    """Jobs that must have succeeded, or this one is never published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """What must not have happened."""

    rule: str
    job: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.job}: {self.detail}"


@dataclass(kw_only=True)
class _Attempt:
    token: int
    began: int
    last: int
    steps: int = 0
    ended: int | None = None


@dataclass(kw_only=True)
class Run:
    """All that is known of a run."""

    expected: Mapping[str, Expected]
    log: Sequence[Entry]
    told: Mapping[str, Told]
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By kind: processes, containers, leases, mounts, directories, keys …; {} when nothing is."""


def parse(lines: Iterable[str]) -> list[Entry]:
    """The jobs' log. A line that was cut off by a kill in its midst says nothing."""
    found = []
    for line in lines:
        try:
            said = json.loads(line)
            found.append(
                Entry(
                    job=said["job"],
                    token=said["token"],
                    what=said["what"],
                    t=said["t"],
                    code=said.get("code", 0),
                )
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def check(run: Run) -> list[Violation]:
    """Every rule against every job; nothing found is what is hoped for."""
    by_job: dict[str, list[Entry]] = {job: [] for job in run.expected}
    for entry in run.log:
        by_job.setdefault(entry.job, []).append(entry)
    found = [
        Violation(rule="left behind", job="-", detail=f"{kind}: {', '.join(names)}")
        for kind, names in run.left.items()
        if names
    ]
    for job, entries in by_job.items():
        expected, told = run.expected.get(job), run.told.get(job)
        if expected is None:
            found.append(Violation(rule="unknown job", job=job, detail="nobody submitted it"))
            continue
        attempts = _attempts(entries)
        found += _alone(job, entries, attempts)
        if told is None or not told.state:
            missing = [one for one in expected.needs if not _succeeded(run.told.get(one))]
            if not missing:
                found.append(Violation(rule="lost", job=job, detail="there is no record of it"))
            continue
        found += _ended_once(job, expected, told)
        found += _result(job, told, attempts)
        found += _failure(job, told, attempts)
        found += _gap_free(job, told)
        found += _whole_stream(job, told, attempts)
    return found


def attempts_of(log: Iterable[Entry]) -> dict[str, int]:
    """How many attempts of each job began."""
    found: dict[str, int] = {}
    for entry in log:
        if entry.what == "began":
            found[entry.job] = found.get(entry.job, 0) + 1
    return found


def _succeeded(told: Told | None) -> bool:
    return told is not None and told.state == "succeeded"


def _attempts(entries: Sequence[Entry]) -> list[_Attempt]:
    """In the order in which they began."""
    found: dict[int, _Attempt] = {}
    for entry in entries:
        one = found.setdefault(
            entry.token, _Attempt(token=entry.token, began=entry.t, last=entry.t)
        )
        one.last = max(one.last, entry.t)
        one.steps += entry.what == "step"
        if entry.what == "ended":
            one.ended = entry.code
    return sorted(found.values(), key=lambda one: one.began)


def _alone(job: str, entries: Sequence[Entry], attempts: Sequence[_Attempt]) -> list[Violation]:
    """Never two attempts at work at once."""
    found = [
        Violation(rule="two at once", job=job, detail=f"{entry.token} saw another one at work")
        for entry in entries
        if entry.what == "twice"
    ]
    for number, earlier in enumerate(attempts):
        for later in attempts[number + 1 :]:
            if earlier.last > later.began:
                ms = (earlier.last - later.began) / 1e6
                detail = f"{earlier.token} worked {ms:.0f} ms beside {later.token}"
                found.append(Violation(rule="two at once", job=job, detail=detail))
    return found


def _ended_once(job: str, expected: Expected, told: Told) -> list[Violation]:
    found = []

    def bad(rule: str, detail: str) -> None:
        found.append(Violation(rule=rule, job=job, detail=detail))

    ends = [one["type"] for one in told.events if one["type"] in _ENDS]
    if told.state not in _ENDS:
        bad("lost", f"it is still {told.state}")
        return found
    if told.state not in expected.ends:
        bad("wrong end", f"it {told.state}, and should be one of {sorted(expected.ends)}")
    if ends != [told.state]:
        bad("ended once", f"the record says {told.state}, the events {ends}")
    elif told.events[-1]["type"] != told.state:
        bad("ended once", f"after its end came {told.events[-1]['type']}")
    if told.celery != _CELERY[told.state]:
        bad("celery", f"the record says {told.state}, Celery {told.celery or 'nothing'}")
    return found


def _result(job: str, told: Told, attempts: Sequence[_Attempt]) -> list[Violation]:
    """The result is that of the attempt that ended the job, which did all its work. It may lack
    what that one said last where it is told that its engine has lost it."""
    if told.state != "succeeded":
        return []
    token = (told.result.get("metrics") or {}).get("token")
    by_token = {one.token: one for one in attempts}
    if token is None and attempts and _lost_by_its_engine(told):
        token = attempts[-1].token
    if token not in by_token:
        detail = f"it names {token}, and the attempts were {sorted(by_token)}"
        return [Violation(rule="result", job=job, detail=detail)]
    one, found = by_token[token], []
    if one.ended != 0:
        detail = f"attempt {token} did not come to its end"
        found.append(Violation(rule="result", job=job, detail=detail))
    if one is not attempts[-1]:
        detail = f"attempt {token} is not the last: {attempts[-1].token} began after it"
        found.append(Violation(rule="result", job=job, detail=detail))
    if told.celery == "SUCCESS" and told.celery_result != told.result:
        detail = "Celery's result is another one than the record's"
        found.append(Violation(rule="result", job=job, detail=detail))
    return found


def _lost_by_its_engine(told: Told) -> bool:
    """Whether it is told that the last of its output may be lost."""
    lines = (line for event in told.events for line in event.get("lines") or ())
    return any(line.startswith(_LAST_WORDS_LOST) for line in lines)


def _failure(job: str, told: Told, attempts: Sequence[_Attempt]) -> list[Violation]:
    """A job has failed because its last attempt did, by its own exit code, and for nothing else."""
    if told.state != "failed":
        return []
    found = []
    if told.reason != "user_error":
        found.append(Violation(rule="failure", job=job, detail=f"its reason is {told.reason!r}"))
    if not attempts or attempts[-1].ended in (None, 0):
        detail = "its last attempt did not end with an exit code that says so"
        found.append(Violation(rule="failure", job=job, detail=detail))
    return found


def _gap_free(job: str, told: Told) -> list[Violation]:
    """Every event has the next number."""
    numbers = [one["seq"] for one in told.events]
    wanted = [seq for seq in range(1, max(numbers, default=0) + 1) if seq > told.dropped_to]
    have = [seq for seq in numbers if seq > told.dropped_to]
    if have == wanted:
        return []
    missing, twice = sorted(set(wanted) - set(have)), len(have) - len(set(have))
    detail = f"missing: {missing[:10]}, doubled: {twice}"
    return [Violation(rule="events", job=job, detail=detail)]


def _whole_stream(job: str, told: Told, attempts: Sequence[_Attempt]) -> list[Violation]:
    """Each attempt's lines come once, in order, without a gap; all of them of one that ended, but
    where it is said that its engine has lost the last."""
    if told.dropped_to:
        return []
    found = []
    is_said = _lost_by_its_engine(told)
    lines: dict[int, list[int]] = {}
    order: list[int] = []
    for event in told.events:
        for line in event.get("lines") or ():
            if match := _LINE.fullmatch(line):
                token = int(match[1])
                lines.setdefault(token, []).append(int(match[2]))
                if not order or order[-1] != token:
                    order.append(token)
    for token, numbers in lines.items():
        if numbers != list(range(len(numbers))):
            detail = f"attempt {token} printed {numbers[:40]}"
            found.append(Violation(rule="stream", job=job, detail=detail))
    if len(order) != len(set(order)):
        detail = f"an attempt was heard after its successor: {order}"
        found.append(Violation(rule="stale event", job=job, detail=detail))
    for one in attempts:
        heard = len(lines.get(one.token, []))
        as_it_should = heard == one.steps or (is_said and heard < one.steps)
        if one.ended is not None and _is_its_end(told, one, attempts) and not as_it_should:
            detail = f"attempt {one.token} printed {one.steps} lines, of which {heard} were heard"
            found.append(Violation(rule="stream", job=job, detail=detail))
    return found


def _is_its_end(told: Told, one: _Attempt, attempts: Sequence[_Attempt]) -> bool:
    """Whether the job ended as this attempt did."""
    if told.state == "failed":
        return one is attempts[-1] and one.ended != 0
    return one.ended == 0 and (told.result.get("metrics") or {}).get("token") == one.token
