"""JSON as the project takes it: finite, bounded, without duplicate keys; and as it writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

MOST_BYTES: Final = 64 * 1024
"""The largest canonical configuration: in base64 it is one argument of a program, and Linux takes
at most 128 KiB in one."""
MOST_DEPTH: Final = 32
_MOST_TEXT: Final = 1024 * 1024
_MOST_INTEGER: Final = 2**63 - 1


def canonical(value: object) -> str:
    """The one way to write ``value``: sorted keys, no spaces, ASCII. ValueError for NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def loads(text: str | bytes | bytearray) -> object:
    """Parse JSON. ValueError for what is no JSON, NaN, a duplicate key, or too much."""
    if len(text) > _MOST_TEXT:
        raise ValueError(f"{len(text)} bytes of JSON; at most {_MOST_TEXT} are read")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"nested too deep; at most {MOST_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None


def checked(text: str | bytes | bytearray) -> object:
    """`loads`, and bounded: what can be written again, and worked with, without surprise.

    ValueError also for what has `faults`.
    """
    found = loads(text)
    for path, wrong in faults(found):
        raise ValueError(f"{path}: {wrong}" if path else wrong)
    return found


def faults(value: object) -> Iterator[tuple[str, str]]:
    """What keeps ``value`` from being bounded, finite JSON: (path, what is wrong), in order."""
    stack: list[tuple[str, int, object]] = [("", 1, value)]
    while stack:
        path, depth, item = stack.pop()
        wrong = _wrong(item, depth)
        if wrong:
            yield path, wrong
            if depth > MOST_DEPTH:
                return  # it may contain itself: one message is enough
            continue
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    yield path, f"the key {key!r} is no string"
            stack += [
                (f"{path}.{key}" if path else str(key), depth + 1, item[key])
                for key in reversed(list(item))
                if isinstance(key, str)
            ]
        elif isinstance(item, list | tuple):
            stack += [
                (f"{path}[{index}]", depth + 1, item[index]) for index in reversed(range(len(item)))
            ]


def _wrong(item: object, depth: int) -> str:
    if depth > MOST_DEPTH:
        return f"nested too deep; at most {MOST_DEPTH} levels"
    match item:
        case None | bool():
            return ""
        case str():
            return "" if _encodes(item) else "text with half a surrogate pair; use valid Unicode"
        case int():
            return "" if abs(item) <= _MOST_INTEGER else "an integer of more than 64 bits"
        case float():
            return "" if math.isfinite(item) else f"{item} is no finite number; give one that is"
        case Mapping() | list() | tuple():
            return ""
        case _:
            kind = f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")
            return (
                f"{kind} is no JSON type; use strings, numbers, true, false, null, lists, objects"
            )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no finite number")


def plain(value: object) -> object:
    """``value`` as dicts and lists; only for what has no `faults`."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
