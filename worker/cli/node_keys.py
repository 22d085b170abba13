"""``cyxwiz keys node`` and ``cyxwiz keys enrol``: the keys that nodes sign results with."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from worker.cli.exits import guarded
from worker.cli.hub import config_option, json_option
from worker.cli.text import columns, moment, say, say_json


@click.command("node")
@config_option
@json_option
@guarded
def node_key(config_path: Path | None, as_json: bool) -> None:
    """Show this node's name and the public key that it signs results and events with.

    Makes the key if there is none, so say it as the node's user. The line `node …` is for the trust
    files of producers; an operator can enrol the key instead (`cyxwiz keys enrol`).
    """
    from tasks.enrolment import Enrolment
    from worker.config import load
    from worker.node.paths import NodePaths
    from worker.trust import node_key as keys

    config = load(config_path, os.environ)
    paths = NodePaths(state_dir=config.node.state_dir)
    paths.create()
    public = keys.node_key(paths).public
    signer = keys.node_signer(config, paths)
    shown = None if signer is None or not signer.certificate else signer.certificate
    enrolment = None if shown is None else Enrolment.parse(shown)
    if as_json:
        say_json(
            {
                "node": config.node.name,
                "public_key": str(public),
                "key_id": public.key_id,
                "signs": config.trust.sign_results,
                "enrolled_by": enrolment.by if enrolment else None,
                "enrolled_until": enrolment.not_after if enrolment else None,
            }
        )
        return
    rows = [
        ("node", f"{config.node.name} {public}"),
        ("key", public.key_id),
        ("signs", "results" if config.trust.sign_results else "nothing (trust.sign_results)"),
        (
            "enrolled",
            f"by {enrolment.by} until {moment(enrolment.not_after)}" if enrolment else "no",
        ),
    ]
    say(columns(rows))


@click.command()
@click.argument("node")
@click.argument("public_key", metavar="PUBLIC_KEY")
@click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="PATH",
    help="The operator's private key, as `cyxwiz keys new` makes it.",
)
@click.option(
    "--lifetime",
    type=float,
    default=None,
    metavar="SECONDS",
    help="How long the enrolment is good; else 366 days.",
)
@guarded
def enrol(node: str, public_key: str, key_path: Path, lifetime: float | None) -> None:
    """Print the operator's signed word that PUBLIC_KEY (ed25519:…) is the key of NODE.

    It goes to the node, as node.cert of its state directory or where trust.enrolment says.
    Producers whose trust file has the operator's key believe the node from then on.
    """
    from tasks.enrolment import LIFETIME_S
    from tasks.enrolment import enrol as enrol_node
    from tasks.trust import PublicKey, SigningKey

    made = enrol_node(
        node,
        PublicKey.parse(public_key),
        SigningKey.load(key_path),
        now=time.time(),
        lifetime=LIFETIME_S if lifetime is None else lifetime,
    )
    say_json(made.to_json())
