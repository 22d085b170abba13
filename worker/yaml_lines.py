"""YAML with the line of every value, read so that a file cannot harm its reader.

Only plain data (the safe loader); a key that stands twice is an error, not a surprise; size, depth
and the number of values are bounded, so that anchors cannot blow a small file up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import yaml

MOST_BYTES: Final = 1024 * 1024
_MOST_DEPTH: Final = 32
_MOST_VALUES: Final = 20_000

Place = tuple[str | int, ...]
"""Where a value stands: keys and indexes from the top."""


class YamlFault(ValueError):
    """What is wrong with the text, and on which line (from 1)."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(line, what)
        self.line = line
        self.what = what


@dataclass(kw_only=True, slots=True)
class Document:
    """A parsed text."""

    value: object = None
    lines: dict[Place, int] = field(default_factory=dict)
    """The line (from 1) of each key, and of each item of a list."""


def parse(text: str) -> Document:
    """The single document in ``text`` (None if it is empty). Raises YamlFault."""
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise YamlFault(1, f"longer than {MOST_BYTES} bytes")
    try:
        return _Reader(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "no YAML"
        raise YamlFault(mark.line + 1 if mark else 1, f"not YAML: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, YamlFault):
            raise
        raise YamlFault(1, f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise YamlFault(1, f"nested deeper than {_MOST_DEPTH} levels") from None


class _Reader:
    def __init__(self, text: str) -> None:
        self._loader = yaml.SafeLoader(text)
        self._found = Document()
        self._count = 0

    def document(self) -> Document:
        try:
            root = self._loader.get_single_node()
            if root is not None:
                self._found.value = self._build(root, ())
            return self._found
        finally:
            self._loader.dispose()

    def _build(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > _MOST_VALUES:
            raise YamlFault(line, f"more than {_MOST_VALUES} values")
        if len(place) > _MOST_DEPTH:
            raise YamlFault(line, f"nested deeper than {_MOST_DEPTH} levels")
        self._found.lines.setdefault(place, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                raise YamlFault(line, "a key that is no text")
            if key in found:
                raise YamlFault(line, f"the key {key} stands twice")
            self._found.lines[(*place, key)] = line
            found[key] = self._build(value_node, (*place, key))
        return found
