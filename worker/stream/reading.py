"""How far an attempt's output was read and published: what its next supervisor goes on from.

Written to the record in the same step as the events themselves, so it is never ahead of them nor
behind. Events of one kind (see `worker.stream.decoder.kind_of`) are published in the order in which
they were printed, those of two kinds perhaps not: so there is one offset for each kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Offsets count the bytes of a stream from the attempt's start."""

    seen: Mapping[str, int] = field(default_factory=dict)
    """By kind of event: every line that ended by then is published, or was coalesced."""
    floors: Mapping[str, int] = field(default_factory=dict)
    """By stream: before it nothing needs to be read again."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """`worker.stream.decoder.Decoder.memory`, of what is before the floors."""

    def to_json(self) -> str:
        """As the record has it."""
        return json.dumps({"seen": self.seen, "floors": self.floors, "memory": self.memory})

    @classmethod
    def from_json(cls, text: str) -> Reading:
        """What was written; nothing was read if that cannot be understood."""
        try:
            said = json.loads(text)
            return cls(
                seen={str(kind): int(end) for kind, end in said["seen"].items()},
                floors={str(stream): int(end) for stream, end in said["floors"].items()},
                memory=dict(said["memory"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()
