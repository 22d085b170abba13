"""``cyxwiz usage``."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from datetime import date, datetime
from pathlib import Path
from typing import Final

import click

from worker.cli.cluster import looking
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import safe, say, say_json, table

_HEAD: Final = ("USER", "GPU HOURS", "SLOT HOURS")
_COLUMNS: Final = ("day", "user_id", "slot_seconds", "gpu_seconds")


@click.command()
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day; today.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day; today.")
@click.option("--user", "user_id", metavar="ID", help="Only this user.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, a line for each day and user.")
@hub_options
@json_option
@guarded
def usage(
    first: datetime | None,
    last: datetime | None,
    user_id: str | None,
    as_csv: bool,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show who used how much: hours of slots and of GPUs, in days of UTC.

    --json and --csv give each day by itself, in seconds.
    """
    from tasks.usage import today

    with looking(redis_url, config_path) as cluster:
        now = today(cluster.client)
        days = _days(first, last, now)
        try:
            rows = list(cluster.usage(*days, user_id=user_id))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    if as_json:
        for row in rows:
            say_json({name: getattr(row, name) for name in _COLUMNS})
    elif as_csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(_COLUMNS)
        out.writerows([getattr(row, name) for name in _COLUMNS] for row in rows)
    else:
        totals: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for row in rows:
            totals[row.user_id][0] += row.gpu_seconds
            totals[row.user_id][1] += row.slot_seconds
        shown = [
            (safe(user) or "-", f"{gpu / 3600:.2f}", f"{slot / 3600:.2f}")
            for user, (gpu, slot) in sorted(totals.items(), key=lambda one: -one[1][0])
        ]
        say(table([_HEAD, *shown]))


def _days(first: datetime | None, last: datetime | None, now: date) -> tuple[date, date]:
    end = last.date() if last else now
    return (first.date() if first else min(now, end)), end
