"""``cyxwiz cordon``, ``drain`` and ``uncordon``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from worker.cli import completing
from worker.cli.cluster import looking
from worker.cli.exits import CommandFailed, guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import note, say, say_json

if TYPE_CHECKING:
    from tasks.cluster import Cluster

_LOOK_EVERY_S: Final = 0.5

_why = click.option(
    "--why", default="", metavar="TEXT", help="For people: `cyxwiz nodes` shows it."
)


@click.command()
@click.argument("node", metavar="NODE", shell_complete=completing.nodes)
@_why
@hub_options
@json_option
@guarded
def cordon(
    node: str, why: str, redis_url: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Have NODE take no new job; those that it has go on.

    It holds through restarts of the node, until `cyxwiz uncordon`.
    """
    with looking(redis_url, config_path) as cluster:
        known = _checked(cluster, node)
        cluster.cordon(node, why=why)
    _say(node, "takes no new job", known, as_json=as_json)


@click.command()
@click.argument("node", metavar="NODE", shell_complete=completing.nodes)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="N",
    help="Jobs in progress have so long to end.",
)
@click.option("--wait", is_flag=True, help="Return when the node has no job any more.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="N",
    help="With --wait: give up so many seconds after the jobs' time.",
)
@_why
@hub_options
@json_option
@guarded
def drain(
    node: str,
    seconds: float,
    wait: bool,
    timeout: float,
    why: str,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Have NODE take no new job, and hand back to the queue what does not end in time.

    A job that is handed back saves a checkpoint first, if it knows how, and goes on elsewhere.
    """
    with looking(redis_url, config_path) as cluster:
        known = _checked(cluster, node)
        cluster.drain(node, seconds=seconds, why=why)
        if wait:
            _until_empty(cluster, node, seconds + timeout)
    _say(node, "has no job" if wait else "drains", known, as_json=as_json)


@click.command()
@click.argument("node", metavar="NODE", shell_complete=completing.nodes)
@hub_options
@json_option
@guarded
def uncordon(node: str, redis_url: str | None, config_path: Path | None, as_json: bool) -> None:
    """Have NODE take jobs again."""
    with looking(redis_url, config_path) as cluster:
        was = cluster.uncordon(node)
    if as_json:
        say_json({"node": node, "changed": was})
    else:
        say(f"node {node} takes jobs again" if was else f"node {node} was not cordoned")


def _checked(cluster: Cluster, node: str) -> bool:
    """Whether anything is known of the node. UsageError: that can be no node's name."""
    from tasks.routing import direct_queue

    try:
        direct_queue(node)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return cluster.node(node) is not None


def _say(node: str, what: str, known: bool, *, as_json: bool) -> None:
    if as_json:
        say_json({"node": node, "known": known})
        return
    say(f"node {node} {what}")
    if not known:
        note(f"no node {node} is known now: it will hold once there is one")


def _until_empty(cluster: Cluster, node: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (found := cluster.node(node)) is not None and found.busy:
        if time.monotonic() > until:
            raise CommandFailed(f"node {node} still has {found.busy} jobs after {seconds:.0f} s")
        time.sleep(_LOOK_EVERY_S)
