"""``cyxwiz submit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import completing
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option, reached, reaching
from worker.cli.keys import key_option
from worker.cli.proof import trust_option
from worker.cli.text import note, say, say_json

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
@click.option(
    "--node",
    metavar="NAME",
    shell_complete=completing.nodes,
    help="This node shall run them, and no other; it waits for it, should it not be there.",
)
@key_option
@click.option("--follow", "--watch", "-f", is_flag=True, help="Follow the jobs to their ends.")
@trust_option
@hub_options
@json_option
@guarded
def submit(
    files: tuple[str, ...],
    changes: tuple[str, ...],
    node: str | None,
    key_path: Path | None,
    follow: bool,
    trust_path: Path | None,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Submit the job in FILE, JSON or YAML; - is stdin. Prints the job's id.

    Of several files all are checked before one is submitted.
    """
    from worker.cli.following import Proof, follow_to_the_end
    from worker.cli.views import view_for

    if trust_path is not None and not follow:
        raise click.UsageError("--trust: says what is believed of a job that is followed: --follow")
    proof = None if trust_path is None else Proof.by(trust_path)
    if files.count("-") > 1:
        raise click.UsageError("stdin (-) can be read only once")
    jobs = [parsed(name, changes) for name in files]
    if key_path is not None:
        jobs = signed(jobs, key_path)
    named = [job.job_id for job in jobs if job.job_id is not None]
    if len(set(named)) != len(named):
        raise click.UsageError("two of the jobs have the same job_id")
    queues = _queues(jobs, node)
    settings = reached(redis_url, config_path)
    began = time.time()
    job_ids = submit_jobs(jobs, settings, queues)
    if not follow:
        for job_id, queue, lacks in zip(job_ids, queues, _missing(queues, settings), strict=True):
            if as_json:
                say_json({"job_id": job_id, "queue": queue, "missing": lacks})
                continue
            say(job_id)
            if lacks:
                note(f"job {job_id} waits until a node can serve it: {lacks}")
        return
    if not as_json:
        for job_id in job_ids:
            say(f"submitted {job_id}")
    if proof is not None:
        digests = [one.with_job_id(i).digest() for one, i in zip(jobs, job_ids, strict=True)]
        specs = dict(zip(job_ids, digests, strict=True))
        proof = replace(proof, specs=specs, since=began)
    view = view_for(job_ids, as_json=as_json)
    sys.exit(follow_to_the_end(job_ids, settings, view, proof))


def parsed(name: str, changes: tuple[str, ...]) -> JobConfig:
    """The job in a file. Raises InvalidJob naming the file."""
    from tasks.errors import InvalidJob
    from tasks.job import JobConfig
    from worker.cli.jobfile import read_job

    value = read_job(name, changes)
    try:
        return JobConfig.parse(value)
    except InvalidJob as error:
        raise InvalidJob(f"{'stdin' if name == '-' else name}: {error}") from None


def signed(jobs: list[JobConfig], key_path: Path) -> list[JobConfig]:
    """The jobs, signed by the key in ``key_path``. Raises KeyUnusable."""
    from tasks.trust import SigningKey, sign

    key = SigningKey.load(key_path)
    return [sign(job, key) for job in jobs]


def submit_jobs(
    jobs: list[JobConfig], settings: Settings, queues: Sequence[str] | None = None
) -> list[str]:
    """Submit; the jobs' ids. ``queues``: those of their classes where it is left out.

    Raises JobConflict, RedisUnavailable.
    """
    from tasks.celery import TRAIN, make_app

    app = make_app(settings, include=())
    ways: list[dict[str, str]] = (
        [{"queue": one} for one in queues] if queues else [{} for _ in jobs]
    )
    return [
        app.send_task(TRAIN, [job.to_wire()], task_id=job.job_id, **way).id
        for job, way in zip(jobs, ways, strict=True)
    ]


def _queues(jobs: list[JobConfig], node: str | None) -> list[str]:
    """Where each waits. Raises InvalidJob: that is no node's name."""
    from tasks.errors import InvalidJob
    from tasks.routing import direct_queue, route

    if node is None:
        return [route(job).queue for job in jobs]
    try:
        return [direct_queue(node)] * len(jobs)
    except ValueError as error:
        raise InvalidJob(f"--node: {error}") from None


def _missing(queues: Sequence[str], settings: Settings) -> Iterator[str]:
    """What no live node has that the jobs of each queue need."""
    from tasks.explaining import missing

    with reaching(settings) as client:
        found = {queue: missing(client, settings.keys, queue) for queue in set(queues)}
    return (found[queue] for queue in queues)
