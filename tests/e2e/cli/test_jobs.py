"""``cyxwiz jobs``, ``logs``, ``retry``, ``checkpoint``, ``pause`` and ``resume``."""

from __future__ import annotations

import uuid

import pytest

from tests.support.cli import Cli
from tests.support.cli_jobs import Busy, python, submitted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_jobs_are_listed_by_user_state_and_label_page_by_page(cli: Cli) -> None:
    user = f"u{uuid.uuid4().hex}"
    ids = [
        submitted(cli, python("pass", user_id=user, pool="none", labels={"n": str(n)}))
        for n in range(5)
    ]
    first = cli("jobs", "--user", user, "--limit", "2", "--json").json
    assert [job["job_id"] for job in first["jobs"]] == [ids[4], ids[3]]
    assert first["jobs"][0]["state"] == "queued"
    assert first["jobs"][0]["labels"] == {"n": "4"}
    rest = cli("jobs", "--user", user, "--after", first["next"], "--json").json
    assert [job["job_id"] for job in rest["jobs"]] == [ids[2], ids[1], ids[0]]
    assert rest["next"] is None
    labelled = cli("jobs", "--user", user, "--label", "n=1", "--json").json
    assert [job["job_id"] for job in labelled["jobs"]] == [ids[1]]
    assert cli("jobs", "--user", user, "--label", "m", "--json").json["jobs"] == []
    assert cli("cancel", ids[0]).code == 0
    queued = cli("jobs", "--user", user, "--state", "queued", "--json").json["jobs"]
    assert {job["job_id"] for job in queued} == set(ids[1:])
    everyones = cli("jobs", "--state", "cancelled", "--limit", "1", "--json").json["jobs"]
    assert [job["job_id"] for job in everyones] == [ids[0]]
    shown = cli("jobs", "--user", user, "--limit", "3")
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["JOB", "STATE"],
        *([job_id, "queued"] for job_id in ids[:1:-1]),
    ]
    assert "more: --after " in shown.err


def test_all_states_come_in_one_order(cli: Cli, done_job: str) -> None:
    assert cli("jobs", "--limit", "1", "--json").json["jobs"][0]["job_id"] == done_job
    seen: list[str] = []
    place: list[str] = []
    while True:
        page = cli("jobs", "--limit", "7", "--json", *place).json
        seen += [job["job_id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        place = ["--after", page["next"]]
    assert len(seen) == len(set(seen))
    assert done_job in seen


def test_logs_are_what_the_job_printed(cli: Cli, done_job: str) -> None:
    done = cli("logs", done_job)
    assert (done.code, done.out, done.err) == (0, "to out\n", "to err\n")
    as_json = cli("logs", done_job, "--json").lines
    assert {(event["type"], *event["lines"]) for event in as_json} == {
        ("log", "to out"),
        ("log", "to err"),
    }
    assert cli("logs", done_job, "-t").out.endswith(" to out\n")


def test_logs_go_on_until_the_job_ends(cli: Cli, busy: Busy) -> None:
    following = cli.start("logs", "-f", busy.job_id)
    following.wait_said("at work")
    busy.end()
    assert following.process.wait(30) == 0


def test_retry_is_a_new_job(cli: Cli, done_job: str, busy: Busy) -> None:
    failed = submitted(cli, python("import sys; sys.exit(1)", labels={"kept": "yes"}))
    assert cli("follow", failed).code == 1
    again = cli("retry", failed, "--json", "--set", "epochs=7").json
    assert again["retry_of"] == failed
    assert again["job_id"] != failed
    spec = cli("job", again["job_id"], "--json").json["spec"]
    assert (spec["labels"], spec["epochs"]) == ({"kept": "yes"}, 7)
    assert cli("retry", failed, "--follow").code == 1
    assert cli("retry", busy.job_id).code == 10
    refused = cli("retry", done_job)
    assert refused.code == 10
    assert "--again" in refused.err
    assert cli("retry", done_job, "--again", "--follow").code == 0


def test_retry_leaves_out_an_expiry_that_has_passed(cli: Cli) -> None:
    over, later = "2020-01-31T12:00:00Z", "2099-01-31T12:00:00+02:00"
    late = submitted(cli, python("pass", expires=over))
    assert cli("follow", late).code == 1
    again = cli("retry", late, "--follow")
    assert again.code == 0, again
    assert f"expires {over} is over, and left out of the new job" in again.err
    said = cli("retry", late, "--set", f"expires={over}", "--follow")
    assert said.code == 1, "what is asked for is done"
    failed = submitted(cli, python("import sys; sys.exit(1)", expires=later, image=None))
    assert cli("follow", failed).code == 1
    for change, kept in (("epochs=1", later), ("expires=600", 600), ("expires=null", None)):
        new = cli("retry", failed, "--json", "--set", change)
        assert cli("job", new.json["job_id"], "--json").json["spec"].get("expires") == kept
        assert new.err == ""


def test_checkpoint_reaches_the_job(cli: Cli, busy: Busy) -> None:
    assert cli("checkpoint", busy.job_id, "--json").json == {
        "job_id": busy.job_id,
        "asked": "checkpoint",
    }
    busy.wait("saved")


def test_a_job_pauses_and_goes_on(cli: Cli, busy: Busy) -> None:
    def state() -> str:
        return str(cli("job", busy.job_id, "--json").json["state"])

    assert cli("pause", busy.job_id).code == 0
    wait_until(lambda: state() == "paused", timeout=20, what="the pause")
    assert cli("resume", busy.job_id).code == 0
    wait_until(lambda: state() == "running", timeout=20, what="the job going on")


@pytest.mark.parametrize("command", ["checkpoint", "pause", "resume"])
def test_only_a_running_job_can_be_asked(cli: Cli, done_job: str, command: str) -> None:
    done = cli(command, done_job)
    assert done.code == 10
    assert "only a running job" in done.err
