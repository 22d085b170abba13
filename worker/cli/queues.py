"""``cyxwiz queues``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from worker.cli.cluster import looking, page_options
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import duration, note, safe, say, say_json, table

_HEAD: Final = ("WAITING", "OLDEST", "NODES", "NEEDS")


@click.command()
@page_options
@hub_options
@json_option
@guarded
def queues(
    limit: int, after: str, redis_url: str | None, config_path: Path | None, as_json: bool
) -> None:
    """List the queues: how many jobs wait, for how long, and how many nodes could serve them.

    Most demanding first: a node looks into its queues in this order.
    """
    with looking(redis_url, config_path) as cluster:
        page = cluster.queues(limit=limit, after=after)
    if as_json:
        say_json({"queues": [asdict(one) for one in page.items], "next": page.next or None})
        return
    rows = [
        (
            str(one.waiting),
            duration(one.oldest_seconds) if one.waiting else "-",
            str(one.servers),
            safe(one.needs),
        )
        for one in page.items
    ]
    say(table([_HEAD, *rows]))
    if page.next:
        note(f"more: --after {page.next}")
