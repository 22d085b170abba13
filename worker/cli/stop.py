"""``cyxwiz node stop``."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import click

from worker.cli.exits import CommandFailed, WrongState, guarded
from worker.cli.hub import config_option


@click.command()
@config_option
@click.option("--drain", is_flag=True, help="Jobs in progress end first, however long they take.")
@click.option(
    "--now",
    is_flag=True,
    help="Jobs in progress save a checkpoint, if they can, and go back to the queue.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait so long for the node's end; it goes on stopping after it. Left out: for ever.",
)
@guarded
def stop(config_path: Path | None, drain: bool, now: bool, timeout: float | None) -> None:
    """Stop the node of this host; its jobs go on and wait for its next start.

    A job that is left running keeps its place for timeouts.away seconds (300 unless configured),
    printing into a buffer. The next `cyxwiz node` with the same state directory goes on with it,
    as if nothing had happened: so a node is upgraded. Ends with 10 if no node runs there.
    """
    from worker.config import load
    from worker.node.identity import agent_pid, require_pidfd
    from worker.node.paths import NodePaths

    if drain and now:
        raise click.UsageError("--drain waits for the jobs and --now does not: choose one")
    require_pidfd()
    paths = NodePaths(state_dir=load(config_path, os.environ).node.state_dir)
    pid = agent_pid(paths)
    if pid is None:
        raise WrongState(f"no node runs with the state directory {paths.state_dir}")
    try:
        agent = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it ended this moment
    number = signal.SIGTERM if drain else signal.SIGQUIT if now else signal.SIGUSR1
    try:
        signal.pidfd_send_signal(agent, number)
        if not select.select([agent], [], [], timeout)[0]:
            raise CommandFailed(f"the node (pid {pid}) is still stopping after {timeout:g} s")
    except ProcessLookupError:
        pass  # the same
    except PermissionError:
        raise WrongState(
            f"the node (pid {pid}) is another user's: only that one may stop it"
        ) from None
    finally:
        os.close(agent)
