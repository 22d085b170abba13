"""The keys whose jobs the node trusts."""

from __future__ import annotations

from tasks.errors import ConfigError, KeyUnusable
from worker.cli.checks.base import Check, Situation, blocks, ok
from worker.trust.keyfile import TrustedKey
from worker.trust.keyring import Keyring
from worker.trust.secrets import Secrets


def check_trust(situation: Situation) -> Check:
    """Read each file of ``trust.keys`` and that of secrets; a node with a wrong one does not
    start."""
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
    if not keys:
        return ok("trust", "no key is trusted: every job is sandboxed")
    has = [f"secrets: {', '.join(names)}"] if names else []
    return ok("trust", "; ".join([*(_line(key) for key in keys), *has]))


def _line(key: TrustedKey) -> str:
    scope = key.scope
    may = [name for name in ("native", "network") if getattr(scope, name)]
    may += [name for name in ("images", "secrets") if getattr(scope, name)]
    return f"{key.name} ({key.key_id}) may have {', '.join(may) or 'nothing more than any job'}"
