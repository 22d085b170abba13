"""What the sections of the configuration share: a strict base, and types with their words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("is no absolute path")
    return path


PATH: Final = "an absolute path"
FLAG: Final = "true or false"

AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(_absolute)]
Amount = Annotated[int, Field(ge=0)]
Flag = Annotated[bool, Field(description=FLAG)]


class Section(BaseModel):
    """What all sections share: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    gone: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Keys of earlier versions, and what to write instead."""
