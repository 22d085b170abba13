"""What the operator allows the store, taken from the configuration once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.config import NodeConfig

LAST_CHECKPOINT_S: Final = 30.0
"""So long a job that is given back waits for the copy of its last checkpoint."""

_MB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Sizes are bytes, times seconds."""

    roots: tuple[Path, ...]
    schemes: tuple[str, ...]
    hosts: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    cache: Path
    cap: int
    keep_free: int
    code_bytes: int
    code_files: int
    artifacts: str
    """A directory or a URL."""
    output_bytes: int
    """0: no cap."""
    stall: float
    checkpoints: str | None = None
    """A URL that copies of checkpoints are sent to."""
    checkpoints_every: float = 30.0

    @classmethod
    def of(cls, config: NodeConfig) -> Policy:
        """The node's."""
        storage = config.storage
        state = config.node.state_dir
        return cls(
            roots=storage.roots,
            schemes=storage.schemes,
            hosts=storage.hosts,
            options=storage.options,
            cache=storage.cache or state / "cache",
            cap=storage.cache_mb * _MB,
            keep_free=storage.keep_free_mb * _MB,
            code_bytes=storage.code_mb * _MB,
            code_files=storage.code_files,
            artifacts=storage.artifacts or str(state / "artifacts"),
            output_bytes=storage.output_mb * _MB,
            stall=config.timeouts.transfer,
            checkpoints=storage.checkpoint_store,
            checkpoints_every=storage.checkpoints_every,
        )
