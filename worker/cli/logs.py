"""``cyxwiz logs``."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from tasks import events
from tasks.events import Envelope, to_json
from worker.cli import completing
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option, reached, reaching
from worker.cli.text import note, safe, say

if TYPE_CHECKING:
    from tasks.settings import Settings


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with its time.")
@hub_options
@json_option
@guarded
def logs(
    job_id: str,
    follow: bool,
    timestamps: bool,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show the lines that a job printed.

    Its stdout goes to stdout, its stderr to stderr. Redis keeps the last lines of a job; what
    is not kept any more is said on stderr.
    """
    from worker.cli.following import follow_all

    settings = reached(redis_url, config_path)
    view = LogView(as_json=as_json, timestamps=timestamps)
    if follow:
        asyncio.run(follow_all([job_id], settings, view))
        return
    for envelope in stored_events(job_id, settings):
        view.show(envelope)


class LogView:
    """Shows what the job printed, and nothing else. See `worker.cli.views.View`."""

    def __init__(self, *, as_json: bool, timestamps: bool) -> None:
        self._as_json = as_json
        self._timestamps = timestamps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, envelope: Envelope) -> None:
        event = envelope.event
        if not isinstance(event, events.Log | events.Truncated):
            return
        if self._as_json:
            say(to_json(envelope))
        elif isinstance(event, events.Truncated):
            note(f"(events {event.from_seq} to {event.to_seq} are not kept any more)")
        else:
            self._lines(envelope.ts, event)

    def _lines(self, ts: float, event: events.Log) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S ", time.localtime(ts)) if self._timestamps else ""
        if event.dropped:
            note(f"({event.dropped} lines were dropped)")
        tell = note if event.stream == "stderr" else say
        for line in event.lines:
            tell(at + safe(line))


def stored_events(job_id: str, settings: Settings) -> list[Envelope]:
    """What Redis keeps of the job's events, in order. Raises UnknownJob, RedisUnavailable."""
    from tasks.sequence import Sequence
    from worker.cli.job import read_record

    keys = settings.keys
    record = read_record(job_id, settings)
    with reaching(settings) as client:
        pipe = client.pipeline()
        pipe.xrange(keys.history(job_id))
        pipe.xrange(keys.tail(job_id))
        history, tail = pipe.execute()
    return Sequence(record.job_id).caught_up([row["e"] for _, row in [*history, *tail]], record.seq)
