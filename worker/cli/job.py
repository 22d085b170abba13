"""``cyxwiz job``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli import completing
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, json_option, reached, reaching
from worker.cli.proof import prove, trust_option
from worker.cli.text import columns, duration, moment, number, safe, say, say_json

if TYPE_CHECKING:
    from tasks.recorded import JobRecord
    from tasks.settings import Settings


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@trust_option
@hub_options
@json_option
@guarded
def job(
    job_id: str,
    trust_path: Path | None,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show what is known of a job.

    Its state, where it ran, its progress and its result. With --trust, of a job that has ended, if
    its end and its result are as a trusted node has signed them.
    """
    record = read_record(job_id, reached(redis_url, config_path))
    node = prove(record, trust_path) if trust_path else ""
    if as_json:
        say_json({**as_object(record), **({"signed_by": node} if node else {})})
    else:
        say(columns([*_rows(record), *([("signed by", node)] if node else [])]))


def read_record(job_id: str, settings: Settings) -> JobRecord:
    """The job's record. Raises UnknownJob, RedisUnavailable."""
    from tasks.record import Records

    with reaching(settings) as client:
        return Records(client, settings.keys).get(job_id)


def as_object(record: JobRecord) -> dict[str, Any]:
    """For programs: times in seconds since the epoch, null for what has not happened."""
    return {
        "job_id": record.job_id,
        "state": record.state,
        "reason": record.reason,
        "message": record.message,
        "queue": record.queue,
        "user_id": record.user_id,
        "attempt": record.attempt,
        "max_attempts": record.max_attempts,
        "node": record.node,
        "slot": record.slot,
        "submitted": record.submitted or None,
        "started": record.started or None,
        "finished": record.finished or None,
        "cancel": record.cancel,
        "image": record.image,
        "sandbox": record.sandbox,
        "progress": record.progress,
        "result": record.result,
        "spec": record.spec,
        "seq": record.seq,
    }


def _rows(record: JobRecord) -> list[tuple[str, str]]:
    took = record.finished - record.started if record.finished and record.started else 0.0
    where = "/".join(filter(None, (record.node, record.slot)))
    rows = [
        ("job", record.job_id),
        ("state", str(record.state)),
        ("why", ": ".join(filter(None, (record.reason, record.message)))),
        ("cancel asked", "" if record.state.terminal else record.cancel),
        ("queue", record.queue),
        ("user", record.user_id),
        ("attempt", f"{record.attempt} of {record.max_attempts}" if record.attempt else ""),
        ("node", where),
        ("image", record.image),
        ("sandbox", _sandbox(record)),
        ("submitted", moment(record.submitted)),
        ("started", moment(record.started)),
        ("finished", moment(record.finished) + (f" (took {duration(took)})" if took else "")),
        ("progress", _progress(record)),
        *_result(record),
    ]
    return [(name, safe(value)) for name, value in rows if value]


def _sandbox(record: JobRecord) -> str:
    """What the node has seen of it, in short; ``--json`` has all of it."""
    seen = record.sandbox
    if not seen:
        return ""
    loosened = ", ".join(seen.get("loosened") or ()) or "nothing"
    checked = f"{seen.get('engine_items', 0)} items at the engine"
    checked += f", {len(seen.get('seen') or {})} on the host"
    return f"{seen.get('engine', '')}; checked: {checked}; loosened: {loosened}"


def _progress(record: JobRecord) -> str:
    """The record keeps the last progress event as it was written."""
    from tasks.events import Progress
    from worker.cli.eventlines import progress_text

    said = {name: record.progress.get(name) for name in ("epoch", "total_epochs")}
    if not record.progress:
        return ""
    metrics = record.progress.get("metrics") or {}
    return progress_text(
        Progress(
            epoch=int(said["epoch"] or 0),
            total_epochs=int(said["total_epochs"] or 0),
            loss=record.progress.get("loss"),
            accuracy=record.progress.get("accuracy"),
            metrics={name: value for name, value in metrics.items() if _is_number(value)},
        )
    )


def _result(record: JobRecord) -> list[tuple[str, str]]:
    result = record.result
    metrics = result.get("metrics") or {}
    files = [f"{one['name']} ({one['size']} bytes)" for one in result.get("artifacts") or ()]
    return [
        ("metrics", "  ".join(f"{n} {number(v)}" for n, v in metrics.items() if _is_number(v))),
        ("model", str(result.get("model_path") or "")),
        ("sha256", str(result.get("sha256") or "")),
        ("artefacts", ", ".join(files)),
        ("left out", ", ".join(left_out(record))),
        ("mode", str(result.get("mode") or "")),
        ("because", str(result.get("why") or "")),
    ]


def left_out(record: JobRecord) -> list[str]:
    """What the job left beside its artefacts that its node did not keep, and why, each."""
    found = record.result.get("refused")
    return [str(one) for one in found] if isinstance(found, list) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
