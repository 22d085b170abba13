"""Reads a job from a file: JSON, or YAML as its version 1.2 has it.

YAML 1.1, which PyYAML reads by itself, takes ``1e-3`` for text, ``no`` for false and a date for
a date; none of that is what the author of a job means.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from tasks import jsonvalue
from tasks.errors import InvalidJob
from worker.cli.jobsettings import apply

_MOST_VALUES: Final = 100_000
_MOST_DEPTH: Final = 64
_PLAIN: Final = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


class _Core(yaml.SafeLoader):
    """YAML 1.2's core schema."""


_Core.yaml_implicit_resolvers = {}  # its own, and empty: add_implicit_resolver changes it

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    _Core.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"(?:{_pattern})\\Z"),
        [char if char != "\0" else "" for char in _first],
    )
# PyYAML's own would read 012 as octal
_Core.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def read_job(source: str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """The job in the file ``source`` (``-``: stdin), changed by ``key=value`` texts.

    Not validated yet. Raises InvalidJob naming the file, and the line where there is one.
    """
    name = "stdin" if source == "-" else source
    text = _text(source, name)
    try:
        value = _value(text, looks_like_json=text.lstrip()[:1] in ("{", "["))
    except _Fault as fault:
        raise InvalidJob(f"{name}{fault}") from None
    if not isinstance(value, dict):
        raise InvalidJob(f'{name}: a job is an object, such as {{"command": ["true"]}}')
    return apply(value, changes)


def scalar(text: str) -> Any:
    """What ``text`` is as a YAML or JSON value; the text itself if it is neither."""
    try:
        return _value(text, looks_like_json=False)
    except _Fault:
        return text


class _Fault(Exception):
    """``:LINE: what`` or ``: what``."""


def _text(source: str, name: str) -> str:
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(jsonvalue.MOST_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                raw = file.read(jsonvalue.MOST_BYTES + 1)
    except OSError as error:
        raise InvalidJob(f"{name}: cannot be read: {error.strerror}") from None
    if len(raw) > jsonvalue.MOST_BYTES:
        raise InvalidJob(f"{name}: longer than {jsonvalue.MOST_BYTES} bytes, the most of a job")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidJob(f"{name}: is not UTF-8 text") from None
    if not text.strip():
        raise InvalidJob(f"{name}: is empty; a job is needed, in JSON or YAML")
    return text


def _value(text: str, *, looks_like_json: bool) -> Any:
    """JSON where it is JSON; else YAML, of which flow mappings look like JSON."""
    if looks_like_json:
        try:
            return jsonvalue.loads(text)
        except ValueError as error:
            json_fault = _Fault(f": {error}")
    try:
        loader = _Core(text)
        try:
            root = loader.get_single_node()
            return None if root is None else _Builder(loader).build(root, 0)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        if looks_like_json:
            raise json_fault from None
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "no YAML"
        where = f":{mark.line + 1}" if mark else ""
        raise _Fault(f"{where}: neither JSON nor YAML: {problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        if looks_like_json:
            raise json_fault from None
        raise _Fault(f": neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from None


class _Builder:
    """Values from nodes. Counts them: a few aliases can stand for a great many values."""

    def __init__(self, loader: _Core) -> None:
        self._loader = loader
        self._count = 0

    def build(self, node: yaml.Node, depth: int) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > _MOST_VALUES or depth > _MOST_DEPTH:
            raise _Fault(f":{line}: too many values, or too deep")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            raise _Fault(f":{line}: the tag {node.tag!r:.80} means nothing in a job")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise _Fault(f":{line}: {node.value!r:.80} cannot be a value of a job") from None

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _Fault(f":{line}: a key that is no text")
            if key.value in found:
                raise _Fault(f":{line}: the key {key.value!r:.80} stands twice")
            found[key.value] = self.build(value, depth + 1)
        return found
