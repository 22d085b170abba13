"""``cyxwiz cancel``, ``checkpoint``, ``pause`` and ``resume``."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli import completing
from worker.cli.exits import WrongState, guarded
from worker.cli.hub import hub_options, json_option, reached
from worker.cli.text import say, say_json


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@click.option("--why", default="", metavar="TEXT", help="For people: stands in the job's record.")
@hub_options
@json_option
@guarded
def cancel(
    job_id: str, why: str, redis_url: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Cancel a job, queued or running.

    A queued one is cancelled at once; a running one is asked to end. May be said again. Ends
    with 10 if the job had ended otherwise before.
    """
    from tasks.celery import make_app
    from tasks.control import cancel as cancel_job
    from tasks.state import JobState

    settings = reached(redis_url, config_path)
    done = cancel_job(job_id, why, app=make_app(settings, include=()))
    over = done.state is JobState.CANCELLED
    if as_json:
        say_json({"job_id": job_id, "state": done.state, "changed": done.changed})
    elif over:
        say(f"job {job_id} is cancelled" + ("" if done.changed else ", and was before"))
    elif done.changed:
        say(f"job {job_id} is {done.state}: its node was asked to end it")
    if not done.changed and not over:
        raise WrongState(f"job {job_id} had ended before: {done.state}")


def _asks(what: str, asked_for: str, help_text: str) -> click.Command:
    """The command that asks ``what`` (a `tasks.control.Ask`) of a running job."""

    @click.command(what, help=help_text)
    @click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
    @hub_options
    @json_option
    @guarded
    def command(
        job_id: str, redis_url: str | None, config_path: Path | None, as_json: bool
    ) -> None:
        from tasks.celery import make_app
        from tasks.control import Ask, ask

        settings = reached(redis_url, config_path)
        ask(job_id, Ask(what), app=make_app(settings, include=()))
        if as_json:
            say_json({"job_id": job_id, "asked": what})
        else:
            say(f"job {job_id} was asked to {asked_for}; its events say when it has")

    return command


_STATE = "Ends with 10 if nobody runs the job now."
checkpoint = _asks(
    "checkpoint",
    "save a checkpoint and go on",
    f"Ask a running job to save a checkpoint and go on. {_STATE}",
)
pause = _asks("pause", "pause", f"Have a running job stand still. {_STATE}")
resume = _asks("resume", "go on", f"Have a paused job go on. {_STATE}")
