"""The keys whose jobs the node trusts, and the enrolment of its own."""

from __future__ import annotations

import os
import time

from tasks.errors import ConfigError, KeyUnusable
from worker.cli.checks.base import Check, Situation, blocks, missing, ok
from worker.config import NodeConfig
from worker.node.paths import NodePaths
from worker.trust.keyfile import TrustedKey
from worker.trust.keyring import Keyring
from worker.trust.node_key import enrolment_of
from worker.trust.secrets import Secrets


def check_trust(situation: Situation) -> Check:
    """Read each file of ``trust.keys``, that of secrets and the enrolment; a node with a wrong one
    does not start."""
    section = situation.config.trust
    try:
        names = sorted(Secrets(section.secrets).names())
    except ConfigError as error:
        return blocks(
            "trust",
            "the file of trust.secrets is wrong",
            why=str(error),
            todo="mend the file; it is not needed where no job gets a secret",
        )
    try:
        keys = Keyring(section.keys).check()
    except (ConfigError, KeyUnusable) as error:
        return blocks(
            "trust",
            "a file of trust.keys is wrong",
            why=str(error),
            todo="mend the file, or take it out of trust.keys; `cyxwiz keys new` makes a right one",
        )
    amiss = _enrolment(situation.config)
    if amiss is not None:
        return amiss
    if not keys:
        return ok("trust", "no key is trusted: every job is sandboxed")
    has = [f"secrets: {', '.join(names)}"] if names else []
    return ok("trust", "; ".join([*(_line(key) for key in keys), *has]))


def _enrolment(config: NodeConfig) -> Check | None:
    """What is amiss with the enrolment that the node shows with what it signs."""
    paths = NodePaths(state_dir=config.node.state_dir)
    if config.trust.enrolment is None and not os.access(paths.enrolment, os.R_OK):
        return None  # there is none, or whoever asks may not see it
    todo = "have its key enrolled again: `cyxwiz keys node` here, `cyxwiz keys enrol` elsewhere"
    try:
        found = enrolment_of(config, paths)
    except ConfigError as error:
        return blocks("trust", "the node's enrolment is wrong", why=str(error), todo=todo)
    said = "" if found is None else found.ending(time.time())
    if not said:
        return None
    return missing(
        "trust",
        said,
        why="then producers who go by the operator's word believe nothing that it has signed, "
        "results of before included",
        todo=f"{todo}; it shows the new one from its next start on",
    )


def _line(key: TrustedKey) -> str:
    scope = key.scope
    may = [name for name in ("native", "network") if getattr(scope, name)]
    may += [name for name in ("images", "secrets") if getattr(scope, name)]
    return f"{key.name} ({key.key_id}) may have {', '.join(may) or 'nothing more than any job'}"
