"""The exit codes, which are a promise."""

from __future__ import annotations

import re
from pathlib import Path

import kombu.exceptions
import pytest
import redis

from tasks import errors
from tasks.control import NotRunning
from tasks.outputs import ArtifactUnavailable, NoArtifacts
from worker.cli.app import cli
from worker.cli.exits import CommandFailed, ExitCode, InTheWay, WrongState, exit_code, told

pytestmark = pytest.mark.unit

DOCS = Path(__file__).parents[4] / "docs" / "cli.md"


def test_the_documented_codes_are_the_codes() -> None:
    table = DOCS.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    documented = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert documented == [int(code) for code in ExitCode]


def test_help_names_every_code() -> None:
    named = re.findall(r"(?:codes:|;)\s+(\d+) ", str(cli.help))
    assert sorted(map(int, named)) == sorted(int(code) for code in ExitCode)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidJob("x"), 3),
        (errors.ConfigError("x"), 3),
        (errors.KeyUnusable("x"), 3),
        (errors.RedisUnavailable("x"), 4),
        (redis.ConnectionError("x"), 4),
        (redis.TimeoutError("x"), 4),
        (kombu.exceptions.OperationalError("x"), 4),
        (errors.UnknownJob("x"), 5),
        (errors.JobConflict("x"), 6),
        (errors.NodeConflict("x"), 6),
        (errors.JobCancelled("cancelled", "x"), 7),
        (errors.JobRejected("untrusted", "x"), 8),
        (errors.JobFailed("internal", "x"), 1),
        (errors.PlatformError("x"), 9),
        (errors.RuntimeUnavailable("x"), 9),
        (NotRunning("x"), 10),
        (WrongState("x"), 10),
        (NoArtifacts("x"), 10),
        (InTheWay("x"), 6),
        (ArtifactUnavailable("x"), 11),
        (CommandFailed("x"), 1),
        (RuntimeError("x"), 70),
    ],
)
def test_each_error_has_its_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_a_fault_of_this_program_says_how_to_report_it() -> None:
    assert told(errors.UnknownJob("no job 'x'")) == "no job 'x'"
    assert "cyxwiz --debug" in told(RuntimeError("odd"))
    assert "cyxwiz doctor" in told(redis.ConnectionError("gone"))
