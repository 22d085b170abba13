"""Takes the values of secrets out of what a job prints.

Against mishaps, not against malice: a job that has a secret can print it in any disguise. Lines
are looked at whole, so it does not matter where the pieces of output were cut. The cost for a line
is linear in its length, once for each secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

LEAST: Final = 8
"""Characters of a secret; fewer would be found in text that is none."""
MASK: Final = "***"


class Mask:
    """Of one attempt's secrets."""

    def __init__(self, values: Iterable[str]) -> None:
        found = {form for value in values for form in _forms(value)}
        self._texts = sorted(found, key=len, reverse=True)
        """The longest first: one may be within another."""
        self._lines = [text.encode() for text in self._texts]

    def line(self, line: bytes, *, cut: bool) -> bytes:
        """A line as it was printed. ``cut``: its end is missing, and perhaps a secret's."""
        for secret in self._lines:
            if secret in line:
                line = line.replace(secret, MASK.encode())
        return self._end(line) if cut else line

    def text(self, text: str) -> str:
        """Text of the job's: control characters that were within a secret are gone from it."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def said(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What a line meant as JSON, two levels deep, which is all that is read of it: escapes that
        were within a secret are gone from it."""
        return {
            self.text(name): {self.text(inner): self._value(one) for inner, one in value.items()}
            if isinstance(value, dict)
            else self._value(value)
            for name, value in said.items()
        }

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int | float) and self.text(str(value)) != str(value):
            return None
        return value

    def _end(self, line: bytes) -> bytes:
        """Without the beginning of a secret whose rest was cut off."""
        where = len(line)
        for secret in self._lines:
            at = line.find(secret[:1], max(0, len(line) - len(secret) + 1))
            while 0 <= at < where:
                if secret.startswith(line[at:]):
                    where = at
                at = line.find(secret[:1], at + 1)
        return line if where == len(line) else line[:where] + MASK.encode()


def _forms(value: str) -> Iterator[str]:
    """The value, each long enough line of it, and both as JSON has them."""
    for text in {value.strip(), *map(str.strip, value.splitlines())}:
        if len(text) >= LEAST:
            yield text
            for ascii_only in (True, False):
                yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]
