"""``cyxwiz retry``."""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import click

from worker.cli import completing
from worker.cli.exits import WrongState, guarded
from worker.cli.hub import hub_options, json_option, reached
from worker.cli.keys import key_option
from worker.cli.text import note, say, say_json


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field, as for submit."
)
@click.option("--again", is_flag=True, help="Even if it succeeded.")
@key_option
@click.option("--follow", "-f", is_flag=True, help="Follow the new job to its end.")
@hub_options
@json_option
@guarded
def retry(
    job_id: str,
    changes: tuple[str, ...],
    again: bool,
    key_path: Path | None,
    follow: bool,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Submit a job that has ended once more.

    It becomes a new job, whose id is printed. If its expires is a time that has passed, the new one
    has none. One that was signed must be signed again, with
    --key: a signature is over the job's id, too.

    Ends with 10 if it has not ended, has succeeded and --again is not said, or was signed and
    there is no --key.
    """
    from tasks.job import JobConfig
    from tasks.state import JobState
    from worker.cli.following import follow_to_the_end
    from worker.cli.job import read_record
    from worker.cli.jobsettings import apply
    from worker.cli.submit import signed, submit_jobs
    from worker.cli.views import view_for

    settings = reached(redis_url, config_path)
    record = read_record(job_id, settings)
    if not record.state.terminal:
        raise WrongState(
            f"job {job_id} is {record.state}: only a job that has ended can be run again "
            f"(cyxwiz cancel {job_id} ends it)"
        )
    if record.state is JobState.SUCCEEDED and not again:
        raise WrongState(f"job {job_id} has succeeded; --again runs it all the same")
    spec = {name: value for name, value in record.spec.items() if name != "signature"}
    if "signature" in record.spec and key_path is None:
        raise WrongState(f"job {job_id} was signed: say --key, so that the new one is signed too")
    said = any(change.startswith("expires=") for change in changes)
    if not said and _is_over(spec.get("expires")):
        note(f"expires {spec.pop('expires')} is over, and left out of the new job")
    jobs = [JobConfig.parse(apply({**spec, "job_id": str(uuid.uuid4())}, changes))]
    new = submit_jobs(signed(jobs, key_path) if key_path else jobs, settings)
    if as_json:
        say_json({"job_id": new[0], "retry_of": job_id})
    else:
        say(f"submitted {new[0]}" if follow else new[0])
    if follow:
        sys.exit(follow_to_the_end(new, settings, view_for(new, as_json=as_json)))


def _is_over(expires: object) -> bool:
    """Whether it is a time that has passed; seconds count from the new submission."""
    try:
        return isinstance(expires, str) and datetime.fromisoformat(expires) <= datetime.now(UTC)
    except (ValueError, TypeError):  # no time, or one without its zone: the job's own check says so
        return False
