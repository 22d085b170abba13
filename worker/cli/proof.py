"""``--trust``: what is told of a job must be the signed word of a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tasks.recorded import JobRecord

trust_option = click.option(
    "--trust",
    "trust_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Believe only what a node of this file has signed; ends with 12 for anything else. That "
    "it ran what was submitted is checked by submit --follow alone: it knows that.",
)


def prove(record: JobRecord, trust_path: Path, *, spec: str | None = None) -> str:
    """The node that has signed how the job ended.

    ``spec``: SHA-256 of what was submitted, if that is known here. Raises KeyUnusable, Unproven,
    WrongState: it has not ended.
    """
    from tasks.roots import TrustRoot
    from tasks.vouching import End, check_end
    from worker.cli.exits import WrongState

    root = TrustRoot.load(trust_path)
    if not record.state.terminal:
        raise WrongState(
            f"job {record.job_id} is {record.state}: nodes sign how a job ends; `cyxwiz follow "
            "--trust` checks what they say until then"
        )
    return check_end(record, End.of(record), root, spec=spec)
