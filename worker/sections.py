"""The sections of ``server-node.yaml``, but for the engines'.

The descriptions say what is right: error messages quote them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tasks.keys import DEFAULT_PREFIX, LEASE_TTL_MS
from tasks.settings import mask
from worker.host import default_node_name, default_state_dir
from worker.section import PATH, AbsolutePath, Amount, Flag, Section

LOCAL_SCHEMES: Final = frozenset(
    {"local", "dir", "reference", "generic", "git", "zip", "tar", "libarchive", "archive", "cached"}
    | {"blockcache", "filecache", "simplecache", "async_wrapper", "jupyter", "dask", "root"}
)
"""Of fsspec: they read the node's own files, or are wrapped round a scheme that does."""

_REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+socket", "sentinel")


class ExecutionMode(StrEnum):
    """How jobs are run."""

    AUTO = "auto"
    """In a container where an engine is usable; else as the policy allows."""
    NATIVE = "native"
    DOCKER = "docker"
    PODMAN = "podman"


class ExecutionSection(Section):
    mode: ExecutionMode = Field(
        ExecutionMode.AUTO, strict=False, description="auto, native, docker or podman"
    )
    allow_untrusted_native: Flag = False
    """Run unsigned jobs without a container, where there is none: they can do as the node can."""


class RedisSection(Section):
    url: str | None = Field(
        None,
        description="redis://, rediss://, unix:// or sentinel:// and the address; left out: "
        "CYXWIZ_REDIS_URL, else one of the node's own",
    )
    prefix: str = Field(
        DEFAULT_PREFIX,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$",
        description="1 to 64 of A-Z, a-z, 0-9 and '._:-', beginning with a letter or digit",
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in _REDIS_SCHEMES or not (parts.netloc or parts.path):
            raise ValueError("is no URL of a Redis")
        return url

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The URL's password is shown nowhere."""
        yield "url", None if self.url is None else mask(self.url)
        yield "prefix", self.prefix


class NodeSection(Section):
    name: str = Field(
        default_factory=default_node_name,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit; "
        "left out: the host's name",
    )
    pool: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        description="at most 63 of a-z, 0-9 and '-': a node of a pool takes its jobs only",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="text by text")
    state_dir: AbsolutePath = Field(
        default_factory=lambda: default_state_dir(os.environ),
        description=f"{PATH} that only the node's user can write to",
    )


class SlotsSection(Section):
    cpu: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = Field(
        "auto", description="auto, or a whole number from 0 to 1024: jobs at once without a GPU"
    )
    gpu: (
        Literal["auto"]
        | Annotated[tuple[tuple[Annotated[int, Field(ge=0)] | str, ...], ...], Field(strict=False)]
    ) = Field(
        "auto",
        description="auto (a slot for each GPU), or a list of lists of GPU UUIDs or indices",
    )

    @field_validator("gpu", mode="before")
    @classmethod
    def _tuples(cls, value: object) -> object:
        if isinstance(value, list):
            return tuple(tuple(item) if isinstance(item, list) else item for item in value)
        return value

    @field_validator("gpu")
    @classmethod
    def _disjoint(cls, value: str | tuple[tuple[int | str, ...], ...]) -> object:
        if isinstance(value, str):
            return value
        devices = [device for group in value for device in group]
        if not all(value) or len(set(devices)) != len(devices):
            raise ValueError("a set is empty, or a GPU stands in it twice")
        return value

    def cpu_slots(self, cores: int) -> int:
        """How many CPU slots a host with ``cores`` gets: by itself, one for each two cores."""
        return max(1, cores // 2) if self.cpu == "auto" else self.cpu


class StorageSection(Section):
    gone: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "job_mb": "it decided nothing: leave it out; storage.output_mb is the most that the "
            "output and the checkpoints of a job may take together"
        }
    )

    roots: tuple[AbsolutePath, ...] = Field(
        (),
        strict=False,
        description="a list of absolute paths: file: URLs are read beneath them only",
    )
    schemes: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]+$")], ...] = Field(
        ("builtin", "file"),
        strict=False,
        description="a list of URL schemes that data and code may come from, such as 'https'; "
        "none that reads this host's files, as local and reference do",
    )
    hosts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("*",),
        strict=False,
        description="a list of patterns of host names or addresses that transfers may connect "
        "to, such as '*.example.org'; '*' means public addresses only, any other is named here",
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="by scheme, what fsspec is told, such as {s3: {endpoint_url: …}}",
    )
    artifacts: str | None = Field(
        None,
        min_length=1,
        description="an absolute path or a URL; left out: beneath node.state_dir",
    )
    keep_artifacts_days: Amount = Field(
        0,
        description="a whole number of days after which artefacts beneath node.state_dir are "
        "removed; 0: never",
    )
    checkpoints: str | None = Field(
        None,
        min_length=1,
        description=f"for what jobs save to go on from: {PATH} that all nodes of the cluster "
        "share, or a URL that copies are sent to; left out: beneath node.state_dir only",
    )
    checkpoints_every: float = Field(
        30.0,
        ge=1,
        le=86400,
        description="seconds from 1 to 86400 that lie between two copies of a job's checkpoints, "
        "at least, where storage.checkpoints is a URL",
    )
    cache: AbsolutePath | None = Field(
        None,
        description=f"{PATH} where fetched data are kept; left out: beneath node.state_dir",
    )
    cache_mb: Amount = Field(51_200, description="MiB that fetched data may take, at least 0")
    keep_free_mb: Amount = Field(
        1_024, description="MiB of a disk that fetched data and artefacts leave free"
    )
    code_mb: Annotated[int, Field(ge=1)] = Field(
        256, description="MiB that the code of a job may take, unpacked, at least 1"
    )
    code_files: Annotated[int, Field(ge=1)] = Field(
        10_000, description="how many files the code of a job may have, at least 1"
    )
    output_mb: Amount = Field(
        10_240,
        description="MiB that the output and the checkpoints of a job may take together; 0: as "
        "much as there is",
    )

    @field_validator("schemes")
    @classmethod
    def _not_the_hosts_own(cls, schemes: tuple[str, ...]) -> tuple[str, ...]:
        local = [one for one in schemes if one in LOCAL_SCHEMES]
        if local:
            raise ValueError(f"{local[0]} would read this host's files, beneath no root")
        return schemes

    @field_validator("artifacts", "checkpoints")
    @classmethod
    def _somewhere(cls, place: str | None) -> str | None:
        if place is not None and not place.startswith("/") and "://" not in place:
            raise ValueError("is neither an absolute path nor a URL")
        return place

    @property
    def shared_checkpoints(self) -> Path | None:
        """The directory that the nodes share, if they do."""
        place = self.checkpoints
        return None if place is None or "://" in place else Path(place)

    @property
    def checkpoint_store(self) -> str | None:
        """The URL that copies are sent to, if any are."""
        place = self.checkpoints
        return place if place is not None and "://" in place else None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The options' values may be secrets, and are shown nowhere."""
        for name, value in super().__repr_args__():
            yield name, sorted(value) if name == "options" else value


class TrustSection(Section):
    keys: tuple[AbsolutePath, ...] = Field(
        (), strict=False, description="a list of absolute paths of public keys"
    )
    require_patched: Flag = False
    allow_exec: Flag = False
    """Run commands beside trusted jobs for keys whose scope has ``exec``."""
    sign_results: Flag = True
    """Sign how jobs end with the node's key."""
    sign_events: Flag = True
    """Sign events too."""
    enrolment: AbsolutePath | None = Field(
        None, description=f"{PATH} of what `cyxwiz keys enrol` wrote for this node"
    )
    secrets: AbsolutePath | None = Field(
        None, description=f"{PATH} of a file of names and values that only the node's user can read"
    )
    secrets_dir: AbsolutePath = Field(
        Path("/dev/shm"),
        description=f"{PATH} on a tmpfs: a job's secrets are there while it runs",
    )

    def secrets_root(self, state_dir: Path) -> Path:
        """Of the node with this ``state_dir``; in it, each attempt with secrets has a directory."""
        whose = hashlib.sha256(str(state_dir).encode()).hexdigest()[:12]
        return self.secrets_dir / f"cyxwiz-secrets-{os.geteuid()}-{whose}"


class ImagesSection(Section):
    allow: tuple[str, ...] = Field(
        ("cyxwiz/*",),
        strict=False,
        description="a list of patterns of image references, such as 'cyxwiz/*'",
    )
    keep_days: Amount = Field(
        30,
        description="a whole number of days after which an image that this node has pulled and no "
        "job has used is removed; 0: never",
    )
    keep_free_mb: Amount = Field(
        10_240,
        description="MiB of the engine's disk: below it, images that this node has pulled and no "
        "job has used within the hour are removed",
    )


class TimeoutsSection(Section):
    """Seconds."""

    stop_grace: float = Field(10.0, ge=0, le=3600, description="seconds from 0 to 3600")
    lease_ttl: float = Field(
        LEASE_TTL_MS / 1000, ge=1, le=3600, description="seconds from 1 to 3600"
    )
    lease_grace: float = Field(15.0, ge=0, le=3600, description="seconds from 0 to 3600")
    away: float = Field(
        300.0,
        ge=1,
        le=86400,
        description="seconds from 1 to 86400 that jobs wait for the next start of a node that was "
        "stopped without ending them",
    )
    job: float = Field(
        0.0, ge=0, description="seconds that any attempt may take at most; 0: no limit"
    )
    transfer: float = Field(
        60.0,
        ge=1,
        le=3600,
        description="seconds from 1 to 3600 that a transfer of data may stand still",
    )


class MetricsSection(Section):
    """For Prometheus."""

    enabled: Flag = True
    address: str = Field(
        "127.0.0.1",
        min_length=1,
        description="the address to serve them at: anybody who reaches it can read them",
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(
        9781, description="a whole number from 1 to 65535"
    )


class NativeSection(Section):
    interpreter: AbsolutePath | None = Field(
        None, description=f"{PATH} of the Python of native jobs; left out: the node's own"
    )
    env_allow: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = Field(
        ("PATH", "LANG", "LC_ALL", "TZ"),
        strict=False,
        description="a list of names of the node's variables that native jobs get",
    )
    nofile: Annotated[int, Field(ge=64, le=1_048_576)] = Field(
        65_536, description="a whole number from 64 to 1048576: open files of a process"
    )
