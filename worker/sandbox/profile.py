"""What a container of a job is and is not allowed: the sandbox, as data.

The defaults are the promise of the sandbox. An operator may loosen single items by name in
``docker.security``; `Profile.loosened` names them, and a node with any has no sandbox level.
"""

from __future__ import annotations

from dataclasses import dataclass

USER = (1000, 1000)
"""Uid and gid of jobs in containers, where the node may choose."""

TARGET_DATA = "/job/data"
TARGET_CHECKPOINTS = "/job/checkpoints"
TARGET_OUTPUT = "/job/output"
TARGET_SECRETS = "/job/secrets"
TMP = "/tmp"

LEAST_PIDS = 64
"""Below this not even an interpreter with a numeric library starts."""
PIDS_WITHOUT_CAP = 4096
"""There is always a limit on processes: a fork bomb costs the host, not the job."""
GVISOR_PIDS = 128
"""Threads that gVisor's kernel has itself, at most; it dies where it cannot have one."""
GVISOR_PIDS_EACH = 8
"""… and those for each process of the job: so many may the host see."""
SHM_MB_WITHOUT_CAP = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """See the module's docstring."""

    read_only_root: bool = True
    no_network: bool = True
    network: str = ""
    """The engine's network that jobs join where ``no_network`` is false; '': its own choice."""
    drop_capabilities: bool = True
    tmp_noexec: bool = True
    """Nothing in /tmp can be executed. Compilers of kernels (Triton) need it loosened."""
    tmp_mb: int = 1024
    """Size of /tmp, MiB; it counts against the job's memory."""
    user: tuple[int, int] = USER
    oom_score: int = 500
    """Where the host runs out of memory, jobs go first."""
    runtime: str = ""
    """The OCI runtime by its name, such as ``runsc``; '': the engine's own choice."""

    @property
    def gvisor(self) -> bool:
        """Whether jobs have gVisor's kernel instead of the host's."""
        return self.runtime.startswith("runsc")

    @property
    def loosened(self) -> tuple[str, ...]:
        """The items that an operator has loosened."""
        items = ("read_only_root", "no_network", "drop_capabilities", "tmp_noexec")
        return tuple(name for name in items if not getattr(self, name))


def user_for(euid: int, egid: int) -> tuple[int, int]:
    """Whom jobs run as when the node runs as ``euid``: 1000 for root's, which may give files away;
    for another the node's own, or it could not delete what they leave. Never root."""
    return USER if euid == 0 else (euid, egid)
