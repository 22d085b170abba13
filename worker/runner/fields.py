"""Values of a job's configuration, taken one by one, with errors that name them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from worker.runner.faults import JobFault

T = TypeVar("T")
Check = Callable[[Any], T]
"""Gives the value back, or raises ValueError with what would be right."""

REQUIRED: Any = object()


class Fields:
    """The values of one object; what was not taken at the end is unknown, and refused."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        """``where``: the path of the object, for messages."""
        self._where = where
        self._left = dict(values)
        self._known: list[str] = []

    @overload
    def take(self, name: str, check: Check[T]) -> T | None: ...

    @overload
    def take(self, name: str, check: Check[T], default: T) -> T: ...

    def take(self, name: str, check: Check[T], default: T | None = None) -> T | None:
        """The value called ``name``; ``default`` (unchecked) if it is not there or null."""
        self._known.append(name)
        value = self._left.pop(name, None)
        if value is None:
            if default is REQUIRED:
                raise JobFault(f"{self._where}: {name} is missing; {_right(check)} is needed")
            return default
        try:
            return check(value)
        except ValueError as error:
            raise JobFault(f"{self._where}: {name} is {_shown(value)}; {error} is needed") from None

    def done(self) -> None:
        """Refuse what was not taken."""
        if self._left:
            names = ", ".join(sorted(self._left))
            known = ", ".join(self._known) or "nothing"
            raise JobFault(f"{self._where}: {names} is unknown here; known: {known}")


def _right(check: Check[Any]) -> str:
    try:
        check(object())
    except ValueError as error:
        return str(error)
    return "a value"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(least: int = 1, most: int | None = None) -> Check[int]:
    """A whole number from ``least`` to ``most``."""

    def check(value: Any) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            upper = f" to {most}" if most is not None else ""
            raise ValueError(f"a whole number from {least}{upper}")
        return value

    return check


def number(
    *, least: float | None = None, above: float | None = None, below: float | None = None
) -> Check[float]:
    """A finite number within bounds."""
    bounds = [
        *([f"at least {least:g}"] if least is not None else []),
        *([f"above {above:g}"] if above is not None else []),
        *([f"below {below:g}"] if below is not None else []),
    ]
    right = " ".join(["a number", " and ".join(bounds)]).strip()

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(right)
        if (least is not None and value < least) or (above is not None and value <= above):
            raise ValueError(right)
        if below is not None and value >= below:
            raise ValueError(right)
        return float(value)

    return check


def one_of(*names: str) -> Check[str]:
    """One of ``names``, however it is written (``cross-entropy`` is ``cross_entropy``)."""
    known = {_fold(name): name for name in names}

    def check(value: Any) -> str:
        found = known.get(_fold(value)) if isinstance(value, str) else None
        if found is None:
            raise ValueError("one of " + ", ".join(names))
        return found

    return check


def _fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").replace(" ", "").lower()


def truth(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def text(value: Any) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("text that is not empty")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts, each once."""
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(one, str) and one for one in value)
        or len(set(value)) != len(value)
    ):
        raise ValueError("a list of texts, each once")
    return tuple(value)


def sizes(value: Any) -> tuple[int, ...]:
    """A whole number of at least 1, or a list of such."""
    found = value if isinstance(value, list | tuple) and value else [value]
    if not all(type(one) is int and one >= 1 for one in found):
        raise ValueError("a whole number from 1, or a list of such,")
    return tuple(found)
