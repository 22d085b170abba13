"""The group ``cyxwiz`` and where its commands are. Loads none of them before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import click

_COMMANDS: Final = {
    "node": "worker.cli.node:node",
    "up": "worker.cli.up:up",
    "submit": "worker.cli.submit:submit",
    "jobs": "worker.cli.jobs:jobs",
    "job": "worker.cli.job:job",
    "follow": "worker.cli.follow:follow",
    "logs": "worker.cli.logs:logs",
    "get": "worker.cli.get:get",
    "cancel": "worker.cli.control:cancel",
    "checkpoint": "worker.cli.control:checkpoint",
    "pause": "worker.cli.control:pause",
    "resume": "worker.cli.control:resume",
    "exec": "worker.cli.execute:execute",
    "retry": "worker.cli.retry:retry",
    "explain": "worker.cli.explain:explain",
    "nodes": "worker.cli.nodes:nodes",
    "queues": "worker.cli.queues:queues",
    "top": "worker.cli.top:top",
    "usage": "worker.cli.usage:usage",
    "devices": "worker.cli.devices:devices",
    "cordon": "worker.cli.cordon:cordon",
    "drain": "worker.cli.cordon:drain",
    "uncordon": "worker.cli.cordon:uncordon",
    "keys": "worker.cli.keys:keys",
    "acl": "worker.cli.acl:acl",
    "audit": "worker.cli.audit:audit",
    "mode": "worker.cli.mode:mode",
    "doctor": "worker.cli.doctor:doctor",
    "demo": "worker.cli.demo:demo",
}
"""Name to module and attribute, in the order in which help lists them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Globals:
    """What is said before the command's name."""

    debug: bool = False
    """Show tracebacks."""


class _Commands(click.Group):
    """Imports a command when it is used: ``cyxwiz --help`` need not load Celery."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = _COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, _, name = where.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    try:
        found = version("cyxwiz-worker")
    except PackageNotFoundError:
        found = "unknown (not installed)"
    click.echo(f"cyxwiz {found}")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Submit training jobs, follow them, and run a node that takes them.

    Exit codes: 0 done; 1 the job failed; 2 wrong usage; 3 the job, the configuration or a key is
    wrong; 4 Redis cannot be reached; 5 unknown job; 6 taken by another; 7 cancelled; 8 rejected;
    9 this host cannot; 10 not in this state; 11 a file cannot be fetched; 12 not a trusted node's
    word; 70 a fault of this program; 124 exec: ended, or nobody knows how; 125 exec: refused;
    130 Ctrl-C; 141 nobody reads the output; 143 SIGTERM.
    """
    ctx.obj = Globals(debug=debug)
