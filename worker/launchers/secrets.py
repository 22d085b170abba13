"""Where an attempt finds its secrets."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from worker.plan import LaunchPlan, SecretFiles

VARIABLE: Final = "CYXWIZ_SECRETS_DIR"
"""Names the directory; each secret is a file in it."""


def with_secrets(plan: LaunchPlan, secrets: SecretFiles | None, seen_as: str = "") -> LaunchPlan:
    """The plan with these secrets. ``seen_as``: where a container has them; '': where they are."""
    if secrets is None:
        return plan
    env = {**plan.env, VARIABLE: seen_as or str(secrets.place)}
    return replace(plan, env=env, secrets=secrets)
