"""``cyxwiz jobs``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tasks.state import JobState
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option, reached, reaching
from worker.cli.text import moment, note, number, safe, say, say_json, table

if TYPE_CHECKING:
    from tasks.listing import Listed

_HEAD = ("JOB", "STATE", "PROGRESS", "SUBMITTED", "USER", "WHERE", "WHY")


def _labels(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in given:
        key, equals, value = text.partition("=")
        found[key] = value if equals else None
    return found


@click.command()
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in JobState]),
    help="Only jobs in this state; again for more.",
)
@click.option("--user", "user_id", default="", metavar="ID", help="Only this user's jobs.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="KEY[=VALUE]",
    help="Only jobs with this label; again for more, of which all must fit.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    metavar="N",
    help="At most so many on a page.",
)
@click.option("--after", metavar="PLACE", help="The next page: the place that the last one named.")
@hub_options
@json_option
@guarded
def jobs(
    states: tuple[str, ...],
    user_id: str,
    labels: dict[str, str | None],
    limit: int,
    after: str | None,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """List jobs, the latest first.

    Those come first to which something happened last; of one user, in whatever state, those
    submitted last.
    """
    from tasks.listing import Wanted, list_jobs, mark_text, parse_mark

    try:
        place = None if after is None else parse_mark(after)
    except ValueError as error:
        raise click.UsageError(f"--after: {error}") from None
    settings = reached(redis_url, config_path)
    wanted = Wanted(
        states=tuple(JobState(state) for state in states), user_id=user_id, labels=labels
    )
    with reaching(settings) as client:
        page, following = list_jobs(client, settings.keys, wanted, limit=limit, after=place)
        while following is not None and len(page) < limit:  # few have these labels
            more, following = list_jobs(
                client, settings.keys, wanted, limit=limit - len(page), after=following
            )
            page += more
    rest = None if following is None else mark_text(following)
    if as_json:
        say_json({"jobs": [asdict(one) for one in page], "next": rest})
        return
    say(table([_HEAD, *(_row(one) for one in page)]))
    if rest is not None:
        note(f"more: --after {rest}")


def _row(job: Listed) -> tuple[str, ...]:
    return (
        job.job_id,
        str(job.state),
        _progress(job.progress),
        moment(job.submitted or 0),
        job.user_id or "-",
        "/".join(filter(None, (job.node, job.slot))) or "-",
        safe(": ".join(filter(None, (job.reason, job.message)))),
    )


def _progress(event: Any) -> str:
    total = event.get("total_epochs")
    epochs = f"{event.get('epoch', 0)}/{total}" if total else ""
    loss = event.get("loss")
    return " ".join(filter(None, (epochs, "" if loss is None else f"loss {number(loss)}"))) or "-"
