"""``--set key=value``: changes to a job that was read from a file."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

import click

from tasks.job import JobConfig

_FLAT: Final = ("labels", "env")
"""Their keys may have dots, and their values are text."""


def apply(job: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """``job`` with every ``key=value``; ``key`` may lead inside: ``hyperparameters.learning_rate``.

    Values are read as JSON or YAML, but for fields that take text; ``null`` takes a field away, so
    that it is as if it had been left out. Raises click.UsageError.
    """
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--set {change!r}: key=value is needed, such as epochs=5")
        field = key.partition(".")[0]
        if field not in JobConfig.model_fields:
            raise click.UsageError(
                f"--set {change!r}: a job has no field {field!r}; there are "
                + ", ".join(sorted(JobConfig.model_fields))
            )
        if text == "null" and _may_be_left_out(key):
            job.pop(key, None)
        else:
            _put(job, _place(key), _parsed(field, text), change)
    return job


def _place(key: str) -> list[str]:
    field, dot, rest = key.partition(".")
    if field in _FLAT:
        return [field, rest] if dot else [field]
    return key.split(".")


def _may_be_left_out(key: str) -> bool:
    """Whether ``key`` is a field, not a place inside of one, and not a required one."""
    field = JobConfig.model_fields.get(key)
    return field is not None and not field.is_required()


def _parsed(field: str, text: str) -> Any:
    from worker.cli.jobfile import scalar  # which reads files with this module

    kind = JobConfig.model_fields[field].annotation
    if field in _FLAT or _textual(kind):
        return text
    return scalar(text)


def _textual(kind: Any) -> bool:
    """Whether a field of this type takes text and nothing else."""
    if get_origin(kind) in {Union, UnionType}:
        return all(_textual(each) for each in get_args(kind) if each is not NoneType)
    return isinstance(kind, type) and issubclass(kind, str | Enum)


def _put(job: dict[str, Any], place: list[str], value: Any, change: str) -> None:
    here: Any = job
    for part, following in zip(place, [*place[1:], None], strict=True):
        last = following is None
        try:
            if isinstance(here, list):
                index = int(part)
                if last:
                    here[index] = value
                else:
                    here = here[index]
            elif last:
                here[part] = value
            else:
                here = here.setdefault(part, {})
        except (IndexError, ValueError):
            raise click.UsageError(
                f"--set {change!r}: {part!r} is no index of a list of {len(here)}"
            ) from None
        except (TypeError, AttributeError):
            raise click.UsageError(
                f"--set {change!r}: {part!r} leads into what is no object"
            ) from None
