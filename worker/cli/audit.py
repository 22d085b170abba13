"""``cyxwiz audit``."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli.exits import CommandFailed, guarded
from worker.cli.hub import config_option
from worker.cli.text import say


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, dir_okay=False))
@config_option
@guarded
def audit(path: Path | None, config_path: Path | None) -> None:
    """Say whether each line of a node's audit follows from the one before.

    PATH is the audit; else that of the node whose configuration this is. Ends with 1 if a line was
    changed, taken out or put in.
    """
    import os

    from tasks.errors import ConfigError
    from worker.config import load
    from worker.node.audit import AuditBroken, check
    from worker.node.paths import NodePaths

    if path is None:
        path = NodePaths(state_dir=load(config_path, os.environ).node.state_dir).audit
    try:
        count = check(path)
    except AuditBroken as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    say(f"{path}: {count} lines, each of which follows from the one before")
