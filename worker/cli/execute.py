"""``cyxwiz exec``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import BinaryIO

import click

from worker.cli import completing
from worker.cli.exits import guarded
from worker.cli.hub import hub_options, reached
from worker.cli.keys import key_option
from worker.cli.text import safe


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
@key_option
@click.option(
    "--timeout",
    "seconds",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="After which the command is ended; at most an hour.",
)
@hub_options
@guarded
def execute(
    job_id: str,
    argv: tuple[str, ...],
    key_path: Path | None,
    seconds: float,
    redis_url: str | None,
    config_path: Path | None,
) -> None:
    """Run a command beside a running job, on its node: in its container, or as a process with its
    environment and limits.

    For operators: the node must allow it (trust.allow_exec), the key in --key must have
    `exec: true` in its scope there, and the job must be signed. The command's output comes as it
    is, at most 1 MiB; Ctrl-C ends it. Ends with the command's own exit code; with 124 if it was
    ended, and with 125 if the node refuses it.
    """
    from tasks.celery import make_app
    from tasks.executing import execute as run_beside
    from tasks.trust import SigningKey

    if key_path is None:
        raise click.UsageError("--key: which key shall sign? (one that the job's node trusts)")
    key = SigningKey.load(key_path)
    app = make_app(reached(redis_url, config_path), include=())
    code = 0
    with contextlib.closing(run_beside(job_id, argv, key=key, seconds=seconds, app=app)) as saying:
        for said in saying:
            if isinstance(said, int):
                code = said
            else:
                where = sys.stderr if said.stream == "stderr" else sys.stdout
                _show(where.buffer, said.data)
    sys.exit(code)


def _show(where: BinaryIO, data: bytes) -> None:
    """As it is; but what runs beside a stranger's program drives no terminal."""
    if where.isatty():
        text = data.decode(errors="backslashreplace")
        data = "".join(
            safe(line.rstrip("\r\n")) + ("\n" if line.endswith("\n") else "")
            for line in text.splitlines(keepends=True)
        ).encode()
    where.write(data)
    where.flush()
