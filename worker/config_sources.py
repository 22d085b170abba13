"""Where configuration comes from: a file and the environment, each value with its origin."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, BinaryIO, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tasks.errors import ConfigError
from tasks.job_faults import shown
from worker.section import Section
from worker.yaml_lines import MOST_BYTES, Place, YamlFault, parse

_UNION_BRANCHES: Final = frozenset({"constrained-int", "int", "str", "function-after[_absolute()"})


@dataclass(kw_only=True, slots=True)
class Source:
    """Raw values, and for each place ``path:line`` or the variable that set it."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, str] = field(default_factory=dict)
    name: str = "configuration"


def from_file(path: Path) -> Source:
    """Read a YAML file. Raises ConfigError; FileNotFoundError is the caller's to judge."""
    try:
        with path.open("rb") as file:
            return from_open(file, path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def from_open(file: BinaryIO, path: Path) -> Source:
    """Read a YAML file that is open. ``path``: its name. Raises ConfigError, OSError."""
    try:
        document = parse(file.read(MOST_BYTES + 1).decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except YamlFault as fault:
        raise ConfigError(f"{path}:{fault.line}: {fault.what}") from None
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: sections are needed, such as `execution: {{mode: auto}}`")
    # a section with nothing in it is one that is left out
    value = {key: item for key, item in value.items() if item is not None}
    origins = {place: f"{path}:{line}" for place, line in document.lines.items()}
    return Source(value=value, origins=origins, name=str(path))


def apply_environment(source: Source, env: Mapping[str, str], model: type[BaseModel]) -> None:
    """Let ``CYXWIZ_<SECTION>__<KEY>`` override ``source``. Raises ConfigError."""
    for variable in sorted(env):
        if not variable.startswith("CYXWIZ_") or "__" not in variable:
            continue
        place = tuple(variable.removeprefix("CYXWIZ_").lower().split("__"))
        if not all(place):
            raise ConfigError(f"{variable}: CYXWIZ_<SECTION>__<KEY> is needed")
        _set(source, place, _parsed(variable, env[variable], place, model), variable)


def _set(source: Source, place: tuple[str, ...], value: object, variable: str) -> None:
    here = source.value
    for part in place[:-1]:
        below = here.get(part)
        if not isinstance(below, dict):
            below = here[part] = {}
        here = below
    here[place[-1]] = value
    for old in [old for old in source.origins if old[: len(place)] == place]:
        del source.origins[old]
    source.origins[place] = variable


def _parsed(variable: str, text: str, place: tuple[str, ...], model: type[BaseModel]) -> object:
    """Text for a key that takes text; else what YAML makes of it."""
    field_info = _field(model, place)
    if field_info is not None and _textual(field_info.annotation):
        return text
    try:
        return parse(text).value
    except YamlFault as fault:
        raise ConfigError(f"{variable}: {fault.what}") from None


def _textual(kind: Any) -> bool:
    """Whether a key of this type takes text and nothing else."""
    if get_origin(kind) in {Union, UnionType}:
        return all(_textual(each) for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is Annotated:
        return _textual(get_args(kind)[0])
    return isinstance(kind, type) and (kind in {str, Path} or issubclass(kind, Enum))


def wrong_config(error: ValidationError, source: Source, model: type[BaseModel]) -> ConfigError:
    """The error for a configuration: a line for each place that is wrong."""
    lines: dict[Place, str] = {}
    for detail in error.errors(include_url=False):
        place = tuple(
            part
            for part in detail["loc"]
            if isinstance(part, int) or (part not in _UNION_BRANCHES and "[" not in part)
        )
        lines.setdefault(place, f"{_origin(source, place)}: {_line(place, detail, model)}")
    told = [
        line
        for place, line in lines.items()
        if not any(len(other) > len(place) and other[: len(place)] == place for other in lines)
    ]
    return ConfigError("\n".join(told))


def _origin(source: Source, place: Place) -> str:
    """Of the value itself, else of what is nearest around it."""
    for length in range(len(place), 0, -1):
        if place[:length] in source.origins:
            return source.origins[place[:length]]
    within = (at for there, at in source.origins.items() if place and there[: len(place)] == place)
    return next(within, source.name)


def _line(place: Place, detail: ErrorDetails, model: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in place)
    if detail["type"] == "extra_forbidden":
        return f"{name}: {_unknown(place, model)}"
    wrong = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if detail["type"] == "path_type":
        wrong = "is no path"
    if detail["type"] == "string_pattern_mismatch":
        wrong = "is not of the right form"
    section = detail["type"] == "value_error" and isinstance(detail["input"], dict)
    got = "" if section or _secret(place) else f" (got {shown(detail['input'])})"
    field_info = _field(model, place)
    right = field_info.description if field_info is not None else None
    return f"{name}: {wrong}{got}" + (f"; right: {right}" if right else "")


def _secret(place: Place) -> bool:
    """Whether a Redis URL, and the password in it, may stand there."""
    return place[:1] == ("redis",) and place != ("redis", "prefix")


def _unknown(place: Place, model: type[BaseModel]) -> str:
    section = _model_at(model, place[:-1])
    if section is not None and issubclass(section, Section) and str(place[-1]) in section.gone:
        return f"is no key any more; {section.gone[str(place[-1])]}"
    allowed = sorted(section.model_fields) if section is not None else []
    near = difflib.get_close_matches(str(place[-1]), allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(allowed)}"


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in place:
        info = here.model_fields.get(str(part)) if here is not None else None
        kind = info.annotation if info is not None else None
        here = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return here


def _field(model: type[BaseModel], place: Place) -> Any:
    """The field at ``place`` (of the list, for a place inside a list); None if there is none."""
    for length in range(len(place), 0, -1):
        section = _model_at(model, place[: length - 1])
        if section is not None:
            return section.model_fields.get(str(place[length - 1]))
    return None
