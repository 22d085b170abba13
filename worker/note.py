"""What a supervisor leaves in the directory of its attempt for whoever may have to take over.

Versions: a reader takes a note of its own version or an older one; what an older one does not say
is None, and an attempt whose note does not say enough is ended rather than adopted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tasks.recorded import Lease
from worker.binding import UNBOUND, is_binding

_FILE: Final = "lease.json"
_VERSION: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Who has the attempt's lease, and what its end is judged by."""

    lease: Lease
    former: tuple[str, ...] = ()
    """Owners before this one: the record may still name one of them."""
    began: float | None = None
    """time.monotonic() at its start; None: an older version wrote this, and not enough of it."""
    output: Path | None = None
    bound: str = UNBOUND
    """To what its checkpoints are (`Binding.name`); ``UNBOUND``: a version before bindings began
    it."""
    devices: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it is run, for the result."""
    started: Mapping[str, Any] = field(default_factory=dict)
    """The fields of its `started` event."""

    @property
    def whole(self) -> bool:
        """Whether a successor can take the attempt over by it."""
        return self.began is not None and self.output is not None

    def handed_to(self, owner: str) -> Note:
        """The note of the next supervisor."""
        lease = replace(self.lease, owner=owner)
        return replace(self, lease=lease, former=(self.lease.owner, *self.former)[:4])


def remember(directory: Path, note: Note) -> None:
    """Write the note, whole or not at all."""
    lease = note.lease
    content = {
        "v": _VERSION,
        "job_id": lease.job_id,
        "owner": lease.owner,
        "fence": lease.fence,
        "former": note.former,
        "began": note.began,
        "output": None if note.output is None else str(note.output),
        "bound": note.bound,
        "devices": note.devices,
        "about": note.about,
        "started": note.started,
    }
    fresh = directory / f"{_FILE}.new"
    fresh.write_text(json.dumps(content))
    fresh.replace(directory / _FILE)


def recall(directory: Path) -> Note | None:
    """The note in ``directory``; None if its supervisor died before it wrote one."""
    try:
        said = json.loads((directory / _FILE).read_text())
        lease = Lease(job_id=said["job_id"], owner=said["owner"], fence=said["fence"])
        if said.get("v", 1) != _VERSION:
            return Note(lease=lease)
        bound = said.get("bound", UNBOUND)
        if bound != UNBOUND and not is_binding(bound):
            return Note(lease=lease)
        return Note(
            lease=lease,
            former=tuple(said["former"]),
            began=said["began"],
            output=None if said["output"] is None else Path(said["output"]),
            bound=bound,
            devices=tuple(said["devices"]),
            about=said["about"],
            started=said["started"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
