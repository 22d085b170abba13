"""``cyxwiz top``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from worker.cli.cluster import looking
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import on_terminal, say_json

if TYPE_CHECKING:
    from tasks.cluster import Cluster
    from worker.cli.topview import Snapshot

_MOST_QUEUES: Final = 200
"""Of which those with waiting jobs are shown."""


@click.command()
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it looks.",
)
@click.option("--once", is_flag=True, help="Show it once; so it is where there is no terminal.")
@hub_options
@json_option
@guarded
def top(
    every: float, once: bool, redis_url: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Watch the cluster: nodes, slots, jobs with their progress, queues. Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    from worker.cli.topview import as_object, drawn

    with looking(redis_url, config_path) as cluster:
        if as_json:
            say_json(as_object(_look(cluster, 1000)))
            return
        console = Console(highlight=False)
        if once or not on_terminal():
            console.print(drawn(_look(cluster, 1000), height=None))
            return
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    height = console.size.height
                    live.update(drawn(_look(cluster, height), height=height), refresh=True)
                    time.sleep(every)
        except KeyboardInterrupt:
            return  # the way to end it


def _look(cluster: Cluster, rows: int) -> Snapshot:
    from tasks.state import JobState
    from worker.cli.topview import Snapshot

    active = (JobState.STARTING, JobState.RUNNING, JobState.PAUSED)
    return Snapshot(
        capacity=cluster.capacity(),
        nodes=cluster.nodes(limit=rows).items,
        jobs=cluster.jobs(states=active, limit=rows).items,
        queues=tuple(one for one in cluster.queues(limit=_MOST_QUEUES).items if one.waiting)[:rows],
    )
