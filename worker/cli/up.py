"""``cyxwiz up``: a cluster of one machine, until it is stopped."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.exits import guarded
from worker.cli.hub import OWN_REDIS, config_option, settings_for
from worker.cli.text import say

if TYPE_CHECKING:
    from worker.config import NodeConfig


@click.command()
@config_option
@click.option(
    "--allow-untrusted-native",
    is_flag=True,
    help="Where there is no container engine, run unsigned jobs as this user.",
)
@click.option("--log-json", is_flag=True, help="The log on stderr as JSON lines.")
@guarded
def up(config_path: Path | None, allow_untrusted_native: bool, log_json: bool) -> None:
    """Run a whole cluster here: a Redis and a node, until stopped.

    The Redis is this user's alone, and keeps its data for the next time. Other commands of this
    user find it. Ctrl-C ends it once the jobs in progress have ended; again, and they are handed
    back.
    """
    from worker.host import ensure_supported_platform

    ensure_supported_platform()
    from worker.config import load
    from worker.node import log
    from worker.node.agent import Agent
    from worker.node.embedded_redis import embedded_redis
    from worker.node.identity import agent_pid, require_pidfd
    from worker.node.paths import NodePaths

    require_pidfd()
    log.configure(as_json=log_json)
    if allow_untrusted_native:
        os.environ["CYXWIZ_EXECUTION__ALLOW_UNTRUSTED_NATIVE"] = "true"  # slot workers read it too
    config = load(config_path, os.environ)
    say(_how_jobs_run(config))
    paths = NodePaths(state_dir=config.node.state_dir)
    paths.create()
    other = agent_pid(paths)
    if other is not None:
        from tasks.errors import NodeConflict

        raise NodeConflict(
            f"{paths.state_dir}: an agent runs there already, with pid {other}; stop it first, or "
            "give this one a directory of its own (CYXWIZ_NODE__STATE_DIR)"
        )
    with embedded_redis(paths.state_dir / "redis") as url:
        known = paths.state_dir / OWN_REDIS
        known.write_text(url + "\n")
        say(f"Redis: {url}; this user's `cyxwiz` finds it, other programs by")
        say(f"  export CYXWIZ_REDIS_URL={url}")
        if config.metrics.enabled:
            say(f"metrics: http://{config.metrics.address}:{config.metrics.port}/metrics")
        say("next: cyxwiz submit JOB --follow; cyxwiz top")
        settings = replace(settings_for(config, os.environ), redis_url=url)
        try:
            sys.exit(Agent(config, settings, config_path=config_path).run())
        finally:
            known.unlink(missing_ok=True)


def _how_jobs_run(config: NodeConfig) -> str:
    """In a line for people. Raises RuntimeUnavailable: no unsigned job could run here."""
    from tasks.errors import RuntimeUnavailable
    from worker.config import ExecutionMode
    from worker.engines import Engines

    why = "execution.mode is native"
    if config.execution.mode is not ExecutionMode.NATIVE:
        engines = Engines(config, abandon_after=0.0)
        try:
            state = engines.state()
        finally:
            engines.close()
        if state.usable:
            return f"jobs run in containers of {state.name} {state.version}"
        why = state.reason
    if config.execution.allow_untrusted_native:
        return f"jobs run natively, as this user and with all that this user may do: {why}"
    if config.trust.keys:
        return f"only signed jobs that ask for no sandbox run here: {why}"
    raise RuntimeUnavailable(
        f"no job could run here: {why}. Start an engine (see `cyxwiz doctor`), or say "
        "--allow-untrusted-native: then jobs run as this user, with all that this user may do"
    )
