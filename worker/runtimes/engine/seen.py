"""Whether an attempt's sandbox is seen to be as it was asked for; else the attempt may not run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from worker.keeper.client import KeeperLink
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.sandbox import evidence, gvisor
from worker.sandbox.profile import Profile
from worker.sandbox.readback import Finding, differences
from worker.sandbox.standins import StandIns, judged

_DYING: Final = 0.3
_AGAIN: Final = 0.01


def require(found: Iterable[Finding], whose: str) -> None:
    """Raises SandboxUnavailable: an item is not as it was asked for. ``whose``: who says so."""
    wrong = list(differences([*found]))
    if wrong:
        raise SandboxUnavailable(f"{whose} {'; '.join(map(str, wrong))}")


def from_host(
    link: KeeperLink, asked: Mapping[str, Any], profile: Profile, stand: StandIns
) -> list[Finding]:
    """What the host shows; nothing of a container that has ended already.

    A process on its way out has let go of its mounts and is not dead yet: what looks wrong is
    looked at again, until it is dead or the time is over.

    ``asked``: the create call. ``profile``: its user as the host has it.
    Raises SandboxUnavailable: an item is not as it was asked for.
    """
    until = time.monotonic() + _DYING
    observe = gvisor.observe if profile.gvisor else evidence.observe
    try:
        while link.job_pid:
            seen = observe(link.job_pid, asked, profile, cpus=stand.cpus)
            found = judged(seen, stand)
            if not list(differences(found)) or time.monotonic() > until:
                require(found, "the host does not show")
                return found
            time.sleep(_AGAIN)
    except evidence.Gone:
        pass
    return []
