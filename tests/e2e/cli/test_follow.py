"""``cyxwiz follow``, ``job`` and ``cancel``."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.support.cli import COMMAND, Cli
from tests.support.cli_jobs import STEPS, Busy, python, submitted

pytestmark = pytest.mark.e2e


def test_a_late_follower_sees_every_event_once(cli: Cli, done_job: str) -> None:
    first, second = (cli("follow", done_job, "--json") for _ in range(2))
    assert first.out == second.out
    assert [event["seq"] for event in first.lines] == list(range(1, len(first.lines) + 1))
    kinds = [event["type"] for event in first.lines]
    assert kinds[0] == "queued"
    assert kinds[-1] == "succeeded"
    assert kinds.count("progress") == 3
    assert {event["job_id"] for event in first.lines} == {done_job}


def test_a_pipe_gets_plain_lines(cli: Cli, done_job: str) -> None:
    out = cli("follow", done_job).out
    assert "\x1b" not in out
    assert "epoch 3/3  loss 0.3333" in out
    assert "| to out" in out
    assert "succeeded: loss 0.3333" in out.splitlines()[-1]


def test_a_terminal_gets_a_bar(cli: Cli, done_job: str) -> None:
    done = cli.on_terminal("follow", done_job)
    assert done.code == 0
    assert "\x1b[" in done.out
    assert "100 %" in done.out
    assert "epoch 3/3  loss 0.3333" in done.out


def test_a_dumb_terminal_gets_plain_lines(cli: Cli, done_job: str) -> None:
    dumb = Cli(cwd=cli.cwd, env={**cli.env, "TERM": "dumb"})
    assert "\x1b" not in dumb.on_terminal("follow", done_job).out


def test_several_jobs_are_followed_at_once_and_the_gravest_end_counts(cli: Cli) -> None:
    good = submitted(cli, python(STEPS))
    bad = submitted(cli, python("import sys; sys.exit(1)"))
    done = cli("follow", good, bad)
    assert done.code == 1
    assert f"{good} succeeded" in done.out
    assert f"{bad} failed" in done.out
    assert cli.on_terminal("follow", good, bad).code == 1


def test_ctrl_c_leaves_the_job_running(cli: Cli, busy: Busy) -> None:
    following = cli.start("follow", busy.job_id)
    following.wait_said("at work")
    done = following.end(signal.SIGINT)
    assert done.code == 130
    assert f"cyxwiz follow {busy.job_id}" in done.err
    assert "Traceback" not in done.err
    assert cli("job", busy.job_id, "--json").json["state"] == "running"


def test_a_reader_that_goes_away_ends_it_quietly(cli: Cli, busy: Busy) -> None:

    process = subprocess.Popen(
        [*COMMAND, "follow", busy.job_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment(),
        cwd=cli.cwd,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    busy.end()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_job_shows_the_record(cli: Cli, done_job: str) -> None:
    shown = cli("job", done_job).out
    assert "succeeded" in shown
    assert "node-a/cpu" in shown
    found = cli("job", done_job, "--json").json
    assert set(found) == {
        *("job_id", "state", "reason", "message", "queue", "user_id", "attempt", "max_attempts"),
        *("node", "slot", "submitted", "started", "finished", "cancel", "progress", "result"),
        *("spec", "seq", "image", "sandbox"),
    }
    assert found["state"] == "succeeded"
    assert found["attempt"] == 1
    assert found["result"]["metrics"] == {"loss": pytest.approx(1 / 3)}
    assert found["submitted"] <= found["started"] <= found["finished"]


def test_a_queued_job_has_not_started(cli: Cli) -> None:
    job_id = submitted(cli, python("pass", pool="nobody-serves-it"))
    found = cli("job", job_id, "--json").json
    assert (found["state"], found["started"], found["finished"]) == ("queued", None, None)
    done = cli("cancel", job_id, "--json", "--why", "by hand")
    assert (done.code, done.json) == (
        0,
        {"job_id": job_id, "state": "cancelled", "changed": True},
    )
    followed = cli("follow", job_id)
    assert followed.code == 7
    assert "cancelled: by hand" in followed.out


def test_a_running_job_is_cancelled_and_again(cli: Cli, busy: Busy) -> None:
    done = cli("cancel", busy.job_id)
    assert done.code == 0
    assert "its node was asked" in done.out
    assert cli("follow", busy.job_id).code == 7
    again = cli("cancel", busy.job_id)
    assert again.code == 0
    assert "was before" in again.out


def test_what_has_ended_cannot_be_cancelled(cli: Cli, done_job: str) -> None:
    done = cli("cancel", done_job)
    assert done.code == 10
    assert "had ended before: succeeded" in done.err


def test_a_rejected_job_is_8(cli: Cli) -> None:
    job_id = submitted(cli, python("pass", secrets=["token"]))
    done = cli("follow", job_id)
    assert done.code == 8
    assert "rejected: untrusted" in done.out


@pytest.mark.parametrize(
    "command", ["follow", "job", "cancel", "logs", "retry", "checkpoint", "pause", "resume"]
)
def test_an_unknown_job_is_5(cli: Cli, command: str) -> None:
    done = cli(command, "nobody-knows-it")
    assert done.code == 5
    assert "no job 'nobody-knows-it'" in done.err
    assert done.out == ""
