"""Bytes of one stream to lines, bounded: a line without an end costs no more than a long one."""

from __future__ import annotations

import re
from typing import Final

MOST_LINE: Final = 8 * 1024
"""Bytes of a line that are kept."""

_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
)
_CONTROL: Final = {
    code: None
    for code in (
        *range(32),
        *range(127, 160),
        *range(0x2028, 0x202F),  # line ends, and what turns the direction of writing
        *range(0x2066, 0x206A),
    )
    if code != 9
}


class LineBuffer:
    """Splits one stream. Offsets count its bytes from the attempt's start."""

    def __init__(self, offset: int = 0) -> None:
        self.consumed = offset
        """Everything before it was given out: where a successor would begin to read."""
        self.begins = offset
        """Where the line begins that comes next."""
        self._rest = b""
        self._cut = 0
        """Bytes of the unfinished line that were thrown away."""

    def feed(self, offset: int, data: bytes) -> list[tuple[bytes, int]]:
        """The lines that end in ``data``, without their ends, and how many bytes each lost."""
        if self._cut:
            end = data.find(b"\n")
            if end < 0:
                self._cut += len(data)
                self.consumed = offset + len(data)
                return []
            first = (self._rest, self._cut + end)
            self._rest, self._cut = b"", 0
            return [first, *self._split(offset + end + 1, data[end + 1 :])]
        return self._split(offset, data)

    def skip_to(self, offset: int) -> None:
        """Nothing was read yet, and nothing before ``offset`` will come."""
        self.consumed = self.begins = offset

    def flush(self) -> list[tuple[bytes, int]]:
        """What is left when the stream has ended."""
        rest, cut = self._rest, self._cut
        self._rest, self._cut = b"", 0
        return [(rest, cut)] if rest else []

    def _split(self, offset: int, data: bytes) -> list[tuple[bytes, int]]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        end = offset + len(data)
        if len(self._rest) > MOST_LINE:
            self._cut = len(self._rest) - MOST_LINE
            self._rest = self._rest[:MOST_LINE]
            self.consumed = end  # else its sender would keep it, fill up, and stop the job
        else:
            self.consumed = end - len(self._rest)
        return [(one[:MOST_LINE], max(0, len(one) - MOST_LINE)) for one in lines]


def text_of(line: bytes, cut: int = 0) -> str:
    """A line as people may read it: no escapes or control characters; of a bar, its last state."""
    text = line.decode("utf-8", "replace")
    if not text.isprintable():
        if "\r" in text:
            parts = [part for part in text.split("\r") if part]
            text = parts[-1] if parts else ""
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        text = text.translate(_CONTROL)
    return f"{text}…[{cut} bytes cut]" if cut else text
