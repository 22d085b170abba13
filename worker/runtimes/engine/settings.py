"""What a container runtime is told of the node's configuration."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from worker.config import NodeConfig
from worker.plan import AttemptId
from worker.runtimes.engine.auth import Credentials, read_credentials
from worker.runtimes.engine.dialect import Dialect
from worker.runtimes.engine.images import ImageRules
from worker.sandbox.profile import Profile, user_for

LABEL: Final = "org.cyxwiz."
NODE, JOB, ATTEMPT, FENCE, STATE = (
    f"{LABEL}{name}" for name in ("node", "job", "attempt", "fence", "state")
)
"""The labels of each container: which node and attempt it is of, and where its state is."""
PROBES: Final = "probes"
"""Where in a node's state directory its probes are at work, and what they saw is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """See the module's docstring."""

    socket: Path
    node: str
    state_root: Path
    abandon_after: float
    """Seconds without a supervisor after which a keeper ends its attempt."""
    profile: Profile
    rules: ImageRules
    remove_containers: bool = True
    """False: stopped containers stay in the engine for ``keep_logs_hours``."""
    keep_logs_hours: int = 24
    pull_silence: float = 60.0
    """Seconds without a word from the engine after which a pull has failed."""
    credentials: Credentials = field(default_factory=Credentials)
    accept_unenforced: frozenset[str] = frozenset()
    """Limits that jobs run without where the engine does not keep them."""

    @classmethod
    def of(
        cls,
        config: NodeConfig,
        *,
        socket: Path,
        abandon_after: float,
        runtime: str = "",
        accept_unenforced: Iterable[str] = (),
    ) -> Self:
        """From ``server-node.yaml``. ``runtime``: see `Profile`.

        Raises ConfigError: the file of logins is wrong."""
        docker = config.docker
        security = docker.security
        return cls(
            socket=socket,
            node=config.node.name,
            state_root=config.node.state_dir,
            abandon_after=abandon_after,
            profile=Profile(
                read_only_root=security.read_only_root,
                no_network=security.no_network,
                drop_capabilities=security.drop_capabilities,
                tmp_noexec=security.tmp_noexec,
                tmp_mb=security.tmp_mb,
                user=user_for(os.geteuid(), os.getegid()),
                runtime=runtime,
            ),
            rules=ImageRules(
                registry=docker.registry, allow=config.images.allow, policy=docker.pull_policy
            ),
            remove_containers=docker.cleanup.remove_containers,
            keep_logs_hours=docker.cleanup.keep_logs_hours,
            credentials=read_credentials(docker.auth_file),
            accept_unenforced=frozenset(accept_unenforced),
        )

    def state_of(self, attempt: AttemptId) -> Path:
        return self.state_root / "attempts" / str(attempt)

    def labels(self, attempt: AttemptId, state: Path) -> Mapping[str, str]:
        """The labels of an attempt's container."""
        return {
            NODE: self.node,
            JOB: attempt.job_id,
            ATTEMPT: str(attempt),
            FENCE: str(attempt.fence),
            STATE: str(state),
        }


def container_name(attempt: AttemptId, state: Path) -> str:
    """The same for each try to start an attempt, and another one's never: two nodes of one engine
    may be of clusters that chose the same job id."""
    whose = hashlib.sha256(str(state).encode()).hexdigest()[:10]
    return f"cyxwiz-{whose}-{attempt.job_id}-{attempt.fence}"


def log_config(dialect: Dialect) -> dict[str, Any]:
    """The engine's ``LogConfig``: bounded, and byte by byte what the job wrote."""
    return {"Type": dialect.log_driver, "Config": dict(dialect.log_options)}
