"""``cyxwiz explain``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from worker.cli import completing
from worker.cli.cluster import looking
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import columns, duration, safe, say, say_json


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@hub_options
@json_option
@guarded
def explain(job_id: str, redis_url: str | None, config_path: Path | None, as_json: bool) -> None:
    """Say why a job is where it is.

    What it needs, who could serve it, and its place in the queue.
    """
    with looking(redis_url, config_path) as cluster:
        found = cluster.explain(job_id)
    if as_json:
        say_json(asdict(found))
        return
    more = found.servers - len(found.nodes)
    rows = [
        ("job", f"{found.job_id}, {found.state}"),
        ("why", found.why),
        ("needs", found.needs),
        ("missing", found.missing),
        ("nodes", ", ".join(found.nodes) + (f" and {more} more" if more > 0 else "")),
        ("not now", ", ".join(found.avoids)),
        ("place", f"{found.place} of {found.length}" if found.place else ""),
        ("waits", duration(found.waits_seconds) if found.waits_seconds else ""),
        ("queue", found.queue),
    ]
    say(columns((name, safe(value)) for name, value in rows if value))
