"""``cyxwiz submit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option, reached
from worker.cli.text import say, say_json

if TYPE_CHECKING:
    from tasks.job import JobConfig
    from tasks.settings import Settings


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a field, such as epochs=5 or hyperparameters.learning_rate=0.01; again for more.",
)
@click.option("--follow", "--watch", "-f", is_flag=True, help="Follow the jobs to their ends.")
@hub_options
@json_option
@guarded
def submit(
    files: tuple[str, ...],
    changes: tuple[str, ...],
    follow: bool,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Submit the job in FILE, JSON or YAML; - is stdin. Prints the job's id.

    Of several files all are checked before one is submitted.
    """
    from worker.cli.following import follow_to_the_end
    from worker.cli.views import view_for

    if files.count("-") > 1:
        raise click.UsageError("stdin (-) can be read only once")
    jobs = [_parsed(name, changes) for name in files]
    named = [job.job_id for job in jobs if job.job_id is not None]
    if len(set(named)) != len(named):
        raise click.UsageError("two of the jobs have the same job_id")
    settings = reached(redis_url, config_path)
    job_ids = submit_jobs(jobs, settings)
    if not follow:
        for job_id, job in zip(job_ids, jobs, strict=True):
            say_json({"job_id": job_id, "queue": queue_of(job)}) if as_json else say(job_id)
        return
    if not as_json:
        for job_id in job_ids:
            say(f"submitted {job_id}")
    sys.exit(follow_to_the_end(job_ids, settings, view_for(job_ids, as_json=as_json)))


def _parsed(name: str, changes: tuple[str, ...]) -> JobConfig:
    """The job in a file. Raises InvalidJob naming the file."""
    from tasks.errors import InvalidJob
    from tasks.job import JobConfig
    from worker.cli.jobfile import read_job

    value = read_job(name, changes)
    try:
        return JobConfig.parse(value)
    except InvalidJob as error:
        raise InvalidJob(f"{'stdin' if name == '-' else name}: {error}") from None


def submit_jobs(jobs: list[JobConfig], settings: Settings) -> list[str]:
    """Submit; the jobs' ids. Raises JobConflict, RedisUnavailable."""
    from tasks.celery import TRAIN, make_app

    app = make_app(settings, include=())
    return [app.send_task(TRAIN, [job.to_wire()], task_id=job.job_id).id for job in jobs]


def queue_of(job: JobConfig) -> str:
    """The queue that the job waits in."""
    from tasks.routing import route

    return route(job).queue
