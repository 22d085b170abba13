"""``cyxwiz retry``."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import click

from worker.cli.exits import WrongState, guarded
from worker.cli.hub import hub_options, json_option, reached
from worker.cli.text import say, say_json


@click.command()
@click.argument("job_id", metavar="ID")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field, as for submit."
)
@click.option("--again", is_flag=True, help="Even if it succeeded.")
@click.option("--follow", "-f", is_flag=True, help="Follow the new job to its end.")
@hub_options
@json_option
@guarded
def retry(
    job_id: str,
    changes: tuple[str, ...],
    again: bool,
    follow: bool,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Submit a job that has ended once more.

    It becomes a new job, whose id is printed.

    Ends with 10 if it has not ended, or has succeeded and --again is not said.
    """
    from tasks.job import JobConfig
    from tasks.state import JobState
    from worker.cli.following import follow_to_the_end
    from worker.cli.job import read_record
    from worker.cli.jobsettings import apply
    from worker.cli.submit import submit_jobs
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
    job = JobConfig.parse(apply({**record.spec, "job_id": str(uuid.uuid4())}, changes))
    new = submit_jobs([job], settings)
    if as_json:
        say_json({"job_id": new[0], "retry_of": job_id})
    else:
        say(f"submitted {new[0]}" if follow else new[0])
    if follow:
        sys.exit(follow_to_the_end(new, settings, view_for(new, as_json=as_json)))
