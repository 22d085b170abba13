"""The section ``gpu`` of ``server-node.yaml``: how devices are given, and those nobody tells of."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from tasks.choices import Device as Kind
from worker.section import Amount, Section


class GpuAllocation(StrEnum):
    """Whether jobs share a GPU."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"


class DeviceSection(Section):
    """A device that no library here tells of, such as an AMD GPU."""

    uuid: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="what the vendor's tools call it: 1 to 128 of A-Z, a-z, 0-9 and '._-'",
    )
    kind: Kind = Field(Kind.ROCM, strict=False, description="cuda or rocm")
    name: str = Field("", max_length=128, description="for people")
    memory_mb: Annotated[int, Field(ge=1)] = Field(description="MiB of its own memory, at least 1")
    nodes: tuple[Annotated[str, Field(pattern=r"^/dev/[A-Za-z0-9/_-]+$")], ...] = Field(
        (),
        strict=False,
        description="a list of its device nodes, such as /dev/dri/renderD128; /dev/kfd comes with "
        "every rocm device",
    )

    @field_validator("kind")
    @classmethod
    def _a_gpu(cls, kind: Kind) -> Kind:
        if not kind.is_gpu:
            raise ValueError(f"{kind} is no kind of GPU")
        return kind


class GpuSection(Section):
    gone: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "strategy": "it decided nothing, since each slot has devices of its own: leave it out; "
            "slots.gpu says which devices a slot has"
        }
    )

    allocation: GpuAllocation = Field(
        GpuAllocation.EXCLUSIVE, strict=False, description="exclusive or shared"
    )
    memory_limit_mb: Amount = Field(
        0, description="MiB of each GPU that jobs may have, a whole number; 0: all of it"
    )
    min_available_memory_mb: Amount = Field(
        0, description="MiB: a GPU with less to be had is given to nobody"
    )
    max_jobs_per_device: Annotated[int, Field(ge=1, le=26)] = Field(
        2, description="a whole number from 1 to 26: jobs at once on a GPU that is shared"
    )
    devices: tuple[DeviceSection, ...] = Field(
        (), strict=False, description="a list of devices that no library here tells of"
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        uuids = [one.uuid for one in self.devices]
        if len(set(uuids)) != len(uuids):
            raise ValueError("devices: a UUID stands in it twice")
        return self

    @property
    def jobs_per_device(self) -> int:
        """How many jobs a device has at once at most."""
        return self.max_jobs_per_device if self.allocation is GpuAllocation.SHARED else 1
