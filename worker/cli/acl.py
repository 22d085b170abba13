"""``cyxwiz acl``: accounts of Redis for the roles of a hub."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from worker.cli.exits import guarded
from worker.cli.hub import json_option
from worker.cli.text import note, say, say_json


@click.command()
@click.argument("role", type=click.Choice(["producer", "node", "monitor", "operator"]))
@click.argument("user")
@click.option("--node", default="", metavar="NAME", help="The node's name, for a node.")
@click.option(
    "--every-node", is_flag=True, help="For a node: for all nodes, which nothing keeps apart then."
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="The password is in there; else one is made, and printed on stderr.",
)
@click.option("--prefix", default="cyxwiz:", metavar="TEXT", help="What every key begins with.")
@json_option
@guarded
def acl(
    role: str,
    user: str,
    node: str,
    every_node: bool,
    password_file: Path | None,
    prefix: str,
    as_json: bool,
) -> None:
    """Print an account of Redis, as a line for its ACL file.

    A producer can submit, follow and cancel; a node can take jobs, from no other's own queues; a
    monitor can read; an operator can do what producer and monitor can, cordon nodes, and cancel in
    Flower. Each is kept to this hub's keys and channels, and from the server's own
    commands.
    """
    from tasks.errors import ConfigError
    from worker.trust.acl import Role, acl_line

    if password_file is None:
        password = secrets.token_urlsafe(32)
    else:
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{password_file}: cannot be read: {error}") from None
    line = acl_line(Role(role), user, password, node=node, every_node=every_node, prefix=prefix)
    if as_json:
        made = {} if password_file else {"password": password}
        say_json({"user": user, "line": line, **made})
        return
    say(line)
    if password_file is None:
        note(f"password of {user}: {password}")
