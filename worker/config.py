"""`NodeConfig`: what the operator says in ``server-node.yaml`` and the environment.

Every key is optional. A variable ``CYXWIZ_<SECTION>__<KEY>``, with two underscores before each
further level (``CYXWIZ_DOCKER__DEFAULT_LIMITS__MEMORY_MB=8192``), overrides the file. A wrong
configuration is refused whole. The sections are in `worker.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from tasks.errors import ConfigError
from worker.config_sources import Source, apply_environment, from_file, wrong_config
from worker.engine_sections import DockerSection, LimitsSection, PodmanSection, PullPolicy
from worker.gpu_section import GpuAllocation, GpuSection
from worker.host import default_node_name, default_state_dir, ensure_supported_platform
from worker.section import Section
from worker.sections import (
    ExecutionMode,
    ExecutionSection,
    ImagesSection,
    MetricsSection,
    NativeSection,
    NodeSection,
    RedisSection,
    SlotsSection,
    StorageSection,
    TimeoutsSection,
    TrustSection,
)

__all__ = [
    "DEFAULT_PATH",
    "ExecutionMode",
    "GpuAllocation",
    "LimitsSection",
    "NodeConfig",
    "PullPolicy",
    "default_node_name",
    "default_state_dir",
    "ensure_supported_platform",
    "load",
]

DEFAULT_PATH: Final = Path("/etc/cyxwiz/server-node.yaml")


class NodeConfig(Section):
    """A node's configuration: frozen, complete, checked."""

    execution: ExecutionSection = Field(default_factory=ExecutionSection)
    docker: DockerSection = Field(default_factory=DockerSection)
    podman: PodmanSection = Field(default_factory=PodmanSection)
    gpu: GpuSection = Field(default_factory=GpuSection)
    redis: RedisSection = Field(default_factory=RedisSection)
    node: NodeSection = Field(default_factory=NodeSection)
    slots: SlotsSection = Field(default_factory=SlotsSection)
    storage: StorageSection = Field(default_factory=StorageSection)
    trust: TrustSection = Field(default_factory=TrustSection)
    images: ImagesSection = Field(default_factory=ImagesSection)
    timeouts: TimeoutsSection = Field(default_factory=TimeoutsSection)
    metrics: MetricsSection = Field(default_factory=MetricsSection)
    native: NativeSection = Field(default_factory=NativeSection)


def load(
    path: Path | None = None, env: Mapping[str, str] | None = None, *, default: Path = DEFAULT_PATH
) -> NodeConfig:
    """The configuration in ``path``, with what ``env`` overrides.

    Without ``path`` it is ``default``, which need not exist. ``env`` None: no overrides.

    Raises ConfigError: every place that is wrong, with file and line (or the variable), what is
    wrong with it, and what would be right.
    """
    env = {} if env is None else env
    try:
        source = from_file(default if path is None else path)
    except FileNotFoundError:
        if path is not None:
            raise ConfigError(
                f"{path}: no such file; leave the option out to run with the defaults"
            ) from None
        source = Source()
    apply_environment(source, env, NodeConfig)
    node = source.value.setdefault("node", {})
    if isinstance(node, dict):
        node.setdefault("state_dir", str(default_state_dir(env)))
    try:
        return NodeConfig.model_validate(source.value)
    except ValidationError as error:
        raise wrong_config(error, source, NodeConfig) from None
