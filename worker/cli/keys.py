"""``cyxwiz keys``: make a key, sign a job with it, see whose a signed job is."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from worker.cli.exits import guarded
from worker.cli.hub import json_option
from worker.cli.node_keys import enrol, node_key
from worker.cli.text import say, say_json

key_option = click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Sign with the private key in PATH.",
)


@click.group()
def keys() -> None:
    """Keys that jobs are signed with, so that nodes may trust them; and keys of nodes."""


keys.add_command(node_key)
keys.add_command(enrol)


@keys.command()
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    metavar="DIR",
    help="Where the two files go; else here.",
)
@json_option
@guarded
def new(name: str, directory: Path, as_json: bool) -> None:
    """Make a key: NAME.key, the private half, and NAME.pub, for the trust.keys of nodes.

    The scope in NAME.pub allows nothing yet: what it shall allow on a node, the node's operator
    writes into the file there. Ends with 3 if there is a file of that name.
    """
    from tasks.errors import KeyUnusable
    from tasks.trust import SigningKey
    from worker.trust.keyfile import check_name, key_file

    check_name(name)
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    if public.exists():
        raise KeyUnusable(f"key {public}: cannot be made: File exists")
    key = SigningKey.generate()
    key.save(private)
    public.write_text(key_file(name, key.public), encoding="utf-8")
    if as_json:
        say_json({"key_id": key.public.key_id, "private": str(private), "public": str(public)})
        return
    say(f"{private}  the private key: keep it; jobs are signed with it")
    say(f"{public}  the public key {key.public.key_id}: for trust.keys of nodes; edit its scope")


@keys.command()
@click.argument("file", metavar="FILE")
@key_option
@click.option(
    "--lifetime",
    type=float,
    default=None,
    metavar="SECONDS",
    help="How long the signature is good; else 7 days. It covers the queue and all attempts.",
)
@guarded
def sign(file: str, key_path: Path | None, lifetime: float | None) -> None:
    """Sign the job in FILE, JSON or YAML (- is stdin), and print it, as JSON."""
    from tasks.trust import LIFETIME_S
    from tasks.trust import sign as sign_job
    from worker.cli.submit import parsed

    if key_path is None:
        raise click.UsageError("--key: which key shall sign?")
    job = sign_job(
        parsed(file, ()), key_path, lifetime=LIFETIME_S if lifetime is None else lifetime
    )
    say_json(job.to_wire())


@keys.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="A file as in trust.keys; again for more.",
)
@json_option
@guarded
def verify(file: str, trusted: tuple[Path, ...], as_json: bool) -> None:
    """Say whose the signed job in FILE is, and what of it the key's scope does not cover.

    Ends with 8 if a node with these keys would refuse it.
    """
    from tasks.errors import BadSignature
    from worker.cli.exits import ExitCode
    from worker.cli.submit import parsed
    from worker.trust.entitlement import lacking
    from worker.trust.keyring import Keyring

    job = parsed(file, ())
    ring = Keyring(tuple(path.absolute() for path in trusted))
    ring.check()
    said: dict[str, Any] = {"trusted": False, "key": None, "why": "", "lacking": ""}
    try:
        standing = ring.standing(job, time.time())
    except BadSignature as error:
        said["why"], refused = str(error), True
    else:
        lack = lacking(job, standing)
        said["why"], refused = standing.why, standing.key is None or lack is not None
        said["lacking"] = lack.message if lack else ""
        if standing.key is not None and standing.stamp is not None:
            said |= {"trusted": True, "key": standing.key.name, "until": standing.stamp.expires}
    say(json.dumps(said) if as_json else (said["lacking"] or said["why"]))
    if refused:
        sys.exit(ExitCode.REJECTED)
