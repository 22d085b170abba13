"""``cyxwiz follow``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from worker.cli import completing
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option, reached
from worker.cli.proof import trust_option


@click.command()
@click.argument("job_ids", nargs=-1, required=True, metavar="ID...", shell_complete=completing.jobs)
@trust_option
@hub_options
@json_option
@guarded
def follow(
    job_ids: tuple[str, ...],
    trust_path: Path | None,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show every event of one job or several, to the end.

    From the first event on, however late it begins. May be said again. Ctrl-C leaves the job
    running. Ends with 0 if the job succeeded, 1 if it failed, 7 if it was cancelled, 8 if it
    was rejected; with --trust with 12 if something is not as a trusted node has signed it.
    """
    from worker.cli.following import Proof, follow_to_the_end
    from worker.cli.views import view_for

    settings = reached(redis_url, config_path)
    wanted = tuple(dict.fromkeys(job_ids))
    proof = None if trust_path is None else Proof.by(trust_path)
    view = view_for(wanted, as_json=as_json)
    sys.exit(follow_to_the_end(wanted, settings, view, proof))
