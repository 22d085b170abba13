"""The sections about container engines; their limits hold for every runtime."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from worker.section import PATH, AbsolutePath, Amount, Flag, Section

_RUNTIME: Final = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"
_MB: Final = "MiB, a whole number; 0: the cap"


class PullPolicy(StrEnum):
    """When an image is pulled."""

    ALWAYS = "always"
    NEVER = "never"
    IF_NOT_PRESENT = "if-not-present"


class LimitsSection(Section):
    """An amount of 0 means the cap: what `max_limits` says, and there what the host has."""

    memory_mb: Amount = Field(0, description=_MB)
    cpu_cores: float = Field(0, ge=0, description="a number of cores; 0: the cap")
    shm_size_mb: Amount = Field(0, description=_MB)
    pids: Amount = Field(0, description="a whole number of processes and threads; 0: the cap")


class SecuritySection(Section):
    """The sandbox's items that an operator may loosen; a node with any false has no level."""

    read_only_root: Flag = True
    no_network: Flag = True
    drop_capabilities: Flag = True
    tmp_noexec: Flag = True
    tmp_mb: int = Field(
        1024, ge=1, le=1_048_576, description="MiB of /tmp, a whole number from 1 to 1048576"
    )


class CleanupSection(Section):
    remove_containers: Flag = True
    keep_logs_hours: Amount = Field(24, description="a whole number of hours, at least 0")


def _default_limits() -> LimitsSection:
    return LimitsSection(memory_mb=16_384, cpu_cores=4, shm_size_mb=2_048, pids=1_024)


class DockerSection(Section):
    """Docker; its limits, security and images hold for every runtime that can keep them."""

    enabled: Flag = True
    socket: AbsolutePath = Field(Path("/var/run/docker.sock"), description=PATH)
    registry: str = Field(
        "docker.io/cyxwiz",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}$",
        description="a registry and the path in it, such as docker.io/cyxwiz",
    )
    pull_policy: PullPolicy = Field(
        PullPolicy.IF_NOT_PRESENT, strict=False, description="always, never or if-not-present"
    )
    runtime: str = Field(
        "",
        pattern=_RUNTIME,
        description="the name of an OCI runtime that the engine knows, such as runsc (gVisor); "
        "left out: the engine's own choice",
    )
    network: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,127})?$",
        description="the name of a network of the engine's, not host, for jobs whose key allows "
        "one; left out: there is none",
    )
    auth_file: AbsolutePath | None = Field(
        None, description=f"{PATH} of registry logins in the form of Docker's config.json"
    )
    preload_images: tuple[str, ...] = Field(
        ("cyxwiz/executor:cuda12-latest", "cyxwiz/executor:cpu-latest"),
        strict=False,
        description="a list of image references",
    )
    default_limits: LimitsSection = Field(
        default_factory=_default_limits, description="what a job gets that asks for nothing"
    )
    max_limits: LimitsSection = Field(
        default_factory=LimitsSection, description="the most that a job may ask for"
    )
    security: SecuritySection = Field(default_factory=SecuritySection)
    cleanup: CleanupSection = Field(default_factory=CleanupSection)

    @field_validator("network")
    @classmethod
    def _a_network_of_its_own(cls, name: str) -> str:
        if name in ("host", "none"):
            raise ValueError(f"is {name}, which is no network for jobs")
        return name

    @field_validator("default_limits", mode="before")
    @classmethod
    def _fill_defaults(cls, value: object) -> object:
        """One limit in the file leaves the other three as they are."""
        return {**_default_limits().model_dump(), **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _defaults_within_caps(self) -> Self:
        for name in LimitsSection.model_fields:
            most, default = getattr(self.max_limits, name), getattr(self.default_limits, name)
            if "default_limits" in self.model_fields_set and 0 < most < default:
                raise ValueError(
                    f"default_limits.{name} is {default}, above max_limits.{name}, {most}"
                )
        return self


class PodmanSection(Section):
    """Rootless Podman of the node's own user; its storage driver is left to Podman."""

    enabled: Flag = True
    socket: AbsolutePath | None = Field(
        None, description=f"{PATH}; left out: the socket of the node's own user"
    )
    runtime: str = Field(
        "",
        pattern=_RUNTIME,
        description="the name of the OCI runtime that jobs must have, such as runc; left out: "
        "Podman's own choice",
    )
    accept_unenforced: tuple[Literal["memory", "pids", "cpu"], ...] = Field(
        (),
        strict=False,
        description="a list of memory, pids and cpu: limits that jobs go without where Podman "
        "does not keep them",
    )

    @field_validator("runtime")
    @classmethod
    def _the_hosts_kernel(cls, name: str) -> str:
        if name.startswith("runsc"):
            raise ValueError(
                f"is {name}: jobs get gVisor with Docker only, with docker.runtime: {name}"
            )
        return name
