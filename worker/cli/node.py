"""``cyxwiz node``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.exits import guarded
from worker.cli.hub import OWN_REDIS, config_option, configured, settings_for
from worker.cli.stop import stop

if TYPE_CHECKING:
    from tasks.settings import Settings
    from worker.config import NodeConfig


@click.group(invoke_without_command=True)
@config_option
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    help="The Redis; else CYXWIZ_REDIS_URL, else the configuration's, else one of the node's own.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="At a stop jobs in progress have so long to end; then they are handed back. "
    "Left out: as long as they take.",
)
@click.option("--log-json", is_flag=True, help="The log on stderr as JSON lines.")
@click.pass_context
@guarded
def node(
    ctx: click.Context,
    config_path: Path | None,
    redis_url: str | None,
    drain: float | None,
    log_json: bool,
) -> None:
    """Run a node: take jobs from Redis and run them, until stopped.

    SIGTERM or Ctrl-C ends it once the jobs in progress have ended; a second one hands them back
    to the queue; a third one kills. SIGHUP has it read its configuration again. `cyxwiz node stop`
    ends it and lets its jobs go on until it is started again. Ends with 3 if the configuration is
    wrong, 6 if another node has the state directory or the name, 9 where no node can run (on
    Windows use WSL2).
    """
    if ctx.invoked_subcommand is not None:
        return
    from worker.host import ensure_supported_platform

    ensure_supported_platform()
    from worker.config import DEFAULT_PATH, load
    from worker.node import log
    from worker.node.agent import Agent
    from worker.node.identity import require_pidfd

    require_pidfd()
    log.configure(as_json=log_json)
    config = load(config_path, os.environ)
    if config_path is None and DEFAULT_PATH.exists():
        config_path = DEFAULT_PATH
    with _redis(config, config_path, redis_url) as settings:
        agent = Agent(
            config,
            settings,
            config_path=config_path,
            drain=drain,
            reread=lambda: load(config_path, os.environ),
        )
        sys.exit(agent.run())


node.add_command(stop)


@contextmanager
def _redis(
    config: NodeConfig, config_path: Path | None, redis_url: str | None
) -> Iterator[Settings]:
    """The Redis that somebody has named, else one that ends with this process."""
    hub = configured(redis_url, config, config_path, os.environ)
    if hub is not None:
        yield hub.settings
        return
    from tasks.errors import NodeConflict
    from worker.node.embedded_redis import embedded_redis
    from worker.node.identity import agent_pid
    from worker.node.paths import NodePaths

    paths = NodePaths(state_dir=config.node.state_dir)
    paths.create()
    other = agent_pid(paths)
    if other is not None:  # its Redis is there, and would be in the way
        raise NodeConflict(
            f"{paths.state_dir}: an agent runs there already, with pid {other}; stop it first, or "
            "give this node a directory of its own (node.state_dir)"
        )
    with embedded_redis(paths.state_dir / "redis") as url:
        click.echo(
            f"no Redis is configured: this node has one of its own, at {url}; this user's "
            "`cyxwiz` commands find it, other programs by CYXWIZ_REDIS_URL"
        )
        known = paths.state_dir / OWN_REDIS
        known.write_text(url + "\n")
        try:
            yield replace(settings_for(config, os.environ), redis_url=url)
        finally:
            known.unlink(missing_ok=True)
